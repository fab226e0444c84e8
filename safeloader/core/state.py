"""Where a loader stands, in plain values: what ``state_dict()`` is made of, and what another program goes on from.

It speaks of what the *consumer* got. What was only prefetched is planned, not done: it is loaded again by whoever goes
on from here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "DIGEST", "KEPT", "AsNew", "DatasetSnapshot", "PlannedTask", "Redo", "State", "WorkerCursor",
    "WorkerPosition", "beginning",
]  # fmt: skip


DIGEST = 8
"""Bytes of a digest."""
KEPT = 65_536
"""A state holds the digests of at most so many of a worker's last tasks."""


class DatasetSnapshot(NamedTuple):
    """What a worker's dataset said of itself (``content``) after ``position`` tasks of the epoch, and the state of the
    worker's generators then. A worker whose dataset can tell its state is hosted from its last mark on."""

    position: int
    content: object
    snapshot: object


class WorkerPosition(NamedTuple):
    """A place in the epoch that a worker goes back to: the tasks finished until then, and its generators."""

    position: int
    snapshot: object


class AsNew(NamedTuple):
    """Where a worker stood when its dataset was last known to be as a new copy of it is: its epoch, the tasks finished
    in that, and its generators. ``ended``: that epoch was over for it, and another program began with these."""

    epoch: int
    position: int
    snapshot: object
    ended: bool = False


class Redo(NamedTuple):
    """Something that a worker finished, and that may have to be done again: a task, or (``epoch``) the beginning of
    one, or (``back``) going back."""

    epoch: int | None
    indices: object = None
    skip: tuple[int, ...] = ()
    digest: bytes = b""  # of what it gave then; it must give it again
    back: WorkerPosition | None = None


class WorkerCursor(NamedTuple):
    """Where one worker stood when the last of its tasks that the consumer got was finished.

    ``replay`` are the (indices, skip) of its tasks since the mark, for map-style datasets that tell their state;
    ``digests`` those of the last of its tasks, for the comparison when they are loaded again. ``changed``: its dataset
    was seen to change itself; ``done`` is what a new copy of it has to do again for that from ``as_new`` on, None where
    that is not known.
    """

    position: int
    ended: bool
    epoch_snapshot: object
    snapshot: object
    mark: DatasetSnapshot | None = None
    replay: tuple[tuple[object, tuple[int, ...]], ...] = ()
    digests: bytes = b""
    changed: bool = False
    as_new: AsNew | None = None
    done: tuple[Redo, ...] | None = ()


class PlannedTask(NamedTuple):
    """A batch that the sampler gave and the consumer has not got."""

    batch: int
    worker: int
    indices: object
    skip: tuple[int, ...] = ()


class State(NamedTuple):
    """Where a loader stands.

    ``batch`` counts what left the plan (map-style) or was delivered (iterable); ``drawn`` what the sampler gave;
    ``turn`` is the worker that the next task goes to; ``over`` says that the consumer was told of the epoch's end;
    ``last`` is the last task that it got; ``slowest`` what automatic deadlines learned, in seconds (ordinary batches,
    first ones); ``exhausted`` says that the sampler has nothing left for this epoch. ``begins`` are the numbers of
    epochs that workers may have to begin again, each with what they were told then; the core knows nothing of them.
    """

    epoch: int
    batch: int
    drawn: int
    turn: int
    over: bool
    last: PlannedTask | None
    planned: tuple[PlannedTask, ...]
    workers: tuple[WorkerCursor, ...]
    slowest: tuple[float, float] = (0.0, 0.0)
    exhausted: bool = False
    begins: tuple[tuple[int, object], ...] = ()


def beginning(epoch: int, turn: int, workers: int) -> State:
    """An epoch of which nothing was drawn, and whose first task goes to this worker."""
    return State(epoch, 0, 0, turn, False, None, (), (WorkerCursor(0, False, None, None),) * workers)
