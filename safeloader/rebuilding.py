"""Accelerate's ``prepare`` makes a new loader of the one it is given, from torch's arguments alone.

Unless torch is patched, the new one is torch's own: no protection, and nothing would say so. It asks the old one for
``_is_accelerate_prepared`` just before; that is the moment to warn, or to keep what torch's arguments do not hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.codes import warn

if TYPE_CHECKING:
    from safeloader.config import Policy

__all__ = ["MARK", "about_to_rebuild", "inherited"]

MARK = "_is_accelerate_prepared"

# By the dataset, which is kept, so that its id stays its own.
_waiting: dict[int, tuple[Any, Policy | None, str | None]] = {}


def about_to_rebuild(loader: Any) -> None:
    """Accelerate has asked ``loader`` whether it is prepared; it is not."""
    import sys

    patching = sys.modules.get("safeloader.patching")
    if patching is None or not patching.patched():
        warn(
            "SL106",
            "Accelerate rebuilds this loader as torch's own DataLoader, which does not survive its workers. Call "
            "safeloader.patch() before accelerator.prepare(...): then what it builds is safeloader's, with the same "
            "policy and name",
            stacklevel=4,
        )
    elif loader.policy is not None or loader.name is not None:
        _waiting[id(loader.dataset)] = (loader.dataset, loader.policy, loader.name)


def inherited(dataset: Any) -> tuple[Policy | None, str | None]:
    """Policy and name of the loader over this dataset that is being rebuilt, once; else none."""
    if not _waiting:
        return None, None
    _, policy, name = _waiting.pop(id(dataset), (None, None, None))
    return policy, name
