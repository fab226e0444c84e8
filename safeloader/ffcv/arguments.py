"""The arguments of `Loader`, checked; each error says what was given and what would be accepted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from safeloader import codes
from safeloader.codes import warn
from safeloader.errors import SettingsError
from safeloader.ffcv.beton import Beton
from safeloader.ffcv.checking import CheckReport, examine
from safeloader.ffcv.resize import whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from safeloader.ffcv.resize import ProgressiveResize

__all__ = ["cache", "count", "indices", "opened", "order_kind", "told", "workers"]

_ORDERS = ("SEQUENTIAL", "RANDOM", "QUASI_RANDOM")


def count(value: Any, name: str, least: int = 1) -> int:
    """A whole number, at least so large."""
    number = whole(value)
    if number is None or number < least:
        raise SettingsError(f"{name}={value!r} is not accepted: it must be a whole number, at least {least}")
    return number


def workers(wanted: int, name: str) -> int:
    """FFCV's threads: at most one a core."""
    import numba

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = int(numba.config.NUMBA_NUM_THREADS)
    if wanted < 1:
        return min(cores, most)
    if wanted > most:
        codes.log_warning(
            "SL155",
            "%s: num_workers=%d, but there are %d cores; %d are used",
            name,
            wanted,
            most,
            most,
        )
    return min(wanted, most)


def opened(path: str, custom_fields: Mapping[str, Any]) -> Beton:
    """The file, looked through."""
    beton = Beton(path, custom_fields)
    report = CheckReport(path)
    examine(beton, report)
    report.raise_if_bad()
    return beton


def order_kind(order: Any, distributed: bool) -> Any:
    """The name of an order, or its class."""
    if isinstance(order, type):
        from ffcv.traversal_order.base import TraversalOrder

        if issubclass(order, TraversalOrder):
            return order
    kind = getattr(order, "name", order)
    if kind not in _ORDERS:
        raise SettingsError(
            f"order={order!r} is not accepted: it must be one of {', '.join(_ORDERS)}, or a TraversalOrder class"
        )
    if kind == "QUASI_RANDOM" and distributed:
        raise SettingsError(
            "FFCV has no QUASI_RANDOM order for distributed runs",
            hint="order=RANDOM; with os_cache=False it reads pages more than once, so give the file to the page cache",
        )
    return kind


def indices(indices: Sequence[int] | None, count: int) -> np.ndarray[Any, Any]:
    """The samples that take part."""
    if indices is None:
        return np.arange(count, dtype=np.uint64)
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "iu"):
        raise SettingsError(f"indices must be a list of whole numbers, not {wanted.dtype} of shape {wanted.shape}")
    wrong = wanted[(wanted < 0) | (wanted >= count)] if len(wanted) else wanted
    if len(wrong):
        raise SettingsError(
            f"index {int(wrong[0])} is not in the file, which has {count} samples ({len(wrong)} such indices)",
            hint="FFCV would read foreign memory",
        )
    return wanted.astype(np.uint64)


def cache(folder: str | None) -> str | None:
    """The folder for compiled code; None where there is none, or it cannot be written."""
    folder = os.environ.get("NUMBA_CACHE_DIR") or folder
    if folder is None:
        return None
    folder = os.path.abspath(os.path.expanduser(folder))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as reason:
        warn("SL153", f"FFCV's compiled code cannot be kept in {folder} ({reason})", stacklevel=4)
        return None
    return folder if os.access(folder, os.W_OK) else None


def told(resize: ProgressiveResize | None) -> Any:
    """A schedule as ranks compare it: its first 200 epochs, or as many as a function of the user's knows."""
    if resize is None:
        return None
    sizes: list[int] = []
    for epoch in range(200):
        try:
            sizes.append(resize.size_at(epoch))
        except Exception:
            break
    return sizes
