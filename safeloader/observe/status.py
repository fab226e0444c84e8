"""How a program's loaders stand right now, fit for JSON: what ``safeloader top`` shows."""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.observe.format import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safeloader.observe.recorder import Recorder

__all__ = ["VERSION", "PassStatus", "loader_status", "program_status"]

VERSION = 1
"""Version of the status. New keys do not change it; a changed or removed one does."""


class PassStatus(NamedTuple):
    """The pass over a loader that is under way: when it began, and what the counts were then."""

    began: float
    batches: int
    waited: float

    @classmethod
    def begin(cls, recorder: Recorder) -> PassStatus:
        """A pass begins now."""
        return cls(monotonic(), recorder.batches, recorder.pulse.waits().seconds)


def program_status(loaders: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The whole program."""
    status: dict[str, Any] = {"v": VERSION, "pid": os.getpid(), "program": sys.argv, "loaders": list(loaders)}
    for key in ("RANK", "WORLD_SIZE"):
        if os.environ.get(key, "").isdecimal():
            status[key.lower()] = int(os.environ[key])
    return status


def loader_status(
    recorder: Recorder,
    current: PassStatus | None,
    epoch: int,
    length: int | None,
    seen: Any,
    shared: int,
) -> dict[str, Any]:
    """One loader.

    Args:
        recorder: its recorder.
        current: its present or last pass.
        epoch: the epoch of that, from 0.
        length: batches of an epoch, where known.
        seen: its workers, and the batch that is due (`safeloader.runtime.trainer.inspection.Inspection`), or None.
        shared: bytes of shared memory that its batches take.
    """
    now, pulse, report = monotonic(), recorder.pulse, recorder.report()
    waits = report.waits
    current = current or PassStatus(now, report.batches, waits.seconds)
    waiting_now = now - pulse.since if pulse.waiting else 0.0
    return {
        "name": recorder.name,
        "epoch": epoch,
        "batch": report.batches - current.batches,
        "length": length,
        "busy": pulse.busy,
        "waiting": pulse.waiting,
        "since": now - pulse.since,
        "pass_seconds": (now if pulse.busy else pulse.since) - current.began,
        "pass_waited": waits.seconds - current.waited + waiting_now,
        "batches": report.batches,
        "waited": waits.seconds + waiting_now,
        "ready": waits.ready,
        "workers": report.workers,
        "processes": report.rung,
        "wait_quantiles": {"0.5": waits.p50, "0.95": waits.p95, "0.99": waits.p99},
        "faults": sum(report.causes.values()),
        "causes": report.causes,
        "seconds_lost": report.seconds_lost,
        "restarts": report.restarts,
        "fallbacks": report.fallbacks,
        "skipped": len(report.skipped),
        "slow_batches": report.slow_batches,
        "due": None if seen is None else _plain(seen.due),
        "recoveries": report.recoveries,
        "shared_memory": shared,
        "timings": [times.as_dict() for times in report.timings],
        "crew": [] if seen is None else [_plain(post) for post in seen.posts],
    }


def _plain(row: Any) -> dict[str, Any]:
    return {name: plain(value) for name, value in row._asdict().items()}
