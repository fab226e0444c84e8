"""Limits that a container or a batch system puts on this process: control groups, versions 1 and 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Limits", "limits", "usable_cpus"]

_N = TypeVar("_N", int, float)

_UNLIMITED = 1 << 60  # version 1 writes a number about this large where there is no limit


class Limits(NamedTuple):
    """What the control groups of this process allow; None where they set no limit.

    Attributes:
        memory: bytes that may be used.
        memory_used: bytes in use within that limit, the cache of files included.
        cpus: processors' worth of time.
        processes: processes and threads that may exist.
    """

    memory: int | None = None
    memory_used: int | None = None
    cpus: float | None = None
    processes: int | None = None


def limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limits:
    """The tightest limit of each kind on the way from this process's groups to the root."""
    groups = _groups(own)
    memory, used = _memory(_levels(root, "memory", groups))
    return Limits(
        memory,
        used,
        _least(_cpus(level) for level in _levels(root, "cpu", groups)),
        _least(_number(level / "pids.max") for level in _levels(root, "pids", groups)),
    )


def _groups(own: Path) -> dict[str, str]:
    """The group of this process by controller; the one of version 2 under ""."""
    groups: dict[str, str] = {}
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return groups
    for line in lines:
        _, controllers, group = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), group))
    return groups


def _levels(root: Path, controller: str, groups: dict[str, str]) -> list[Path]:
    """The directories of this process's group and of those above it. In a container the root stands for the group."""
    found = []
    for base, group in ((root, groups.get("")), (root / controller, groups.get(controller))):
        if group is None:
            continue
        path = base / group.lstrip("/")
        while True:
            found.append(path)
            if path == base:
                break
            path = path.parent
    return [path for path in found if path.is_dir()]


def _memory(levels: list[Path]) -> tuple[int | None, int | None]:
    best: tuple[int | None, int | None] = (None, None)
    for level in levels:
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most = _number(level / limit)
            if most is not None and (best[0] is None or most < best[0]):
                best = (most, _number(level / usage))
    return best


def _cpus(level: Path) -> float | None:
    try:  # version 2: "quota period"
        quota, _, period = (level / "cpu.max").read_text().strip().partition(" ")
        return None if quota == "max" else int(quota) / int(period or 100_000)
    except (OSError, ValueError):
        pass
    quota_us, period_us = _number(level / "cpu.cfs_quota_us"), _number(level / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us is not None and quota_us > 0 and period_us else None


def _number(path: Path) -> int | None:
    try:
        value = int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return value if value < _UNLIMITED else None


def _least(values: Iterable[_N | None]) -> _N | None:
    return min((value for value in values if value is not None), default=None)


def usable_cpus() -> float:
    """Processors that this process may use: its affinity mask, the quota of its group, or all there are."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = limits().cpus
    return min(float(affinity), quota) if quota is not None else float(affinity)
