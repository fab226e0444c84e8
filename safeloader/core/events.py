"""Past facts: what the consumer, the sampler and the processes did. The supervisor decides on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Union, get_args

if TYPE_CHECKING:
    from safeloader.core.state import State

__all__ = [
    "EVENTS", "INLINE", "BatchRequested", "ClockAdvanced", "CloseRequested", "EpochBegan", "EpochResumed", "Event",
    "InlineInterrupted", "InlineRefused", "Lease", "LeaseReturned", "PlanEnded", "ProbeFinished", "ProcessExited",
    "ProcessInspected", "ProcessLostElsewhere", "ProcessReady", "RewindRequested", "ShadowLost", "ShadowTaken",
    "StacksCaptured", "StartRefused", "StateRequested", "TaskCancelled", "TaskLoaded", "TaskPlanned", "TaskRaised",
    "WorkerChanged", "WorkerDiverged", "WorkerEnded", "WorkerMarked", "WorkerReady", "WorkerResumed", "WorkerUnchanged",
]  # fmt: skip

INLINE = 0
"""The process number of the trainer itself: it hosts workers at the lowest rung of the ladder."""


class Lease(NamedTuple):
    """The right to one piece of shared memory, from the sending of a task until the last view of its batch dies."""

    slot: int
    serial: int


# ---------------------------------------------------------------- what the consumer and the sampler did


class EpochBegan(NamedTuple):
    """The consumer asked for a new epoch; whatever the last one left is abandoned."""

    epoch: int


class EpochResumed(NamedTuple):
    """The consumer goes on where a state was taken, perhaps in another program. Only ever the first event.

    If the state's epoch is over, EpochBegan follows.
    """

    state: State


class StateRequested(NamedTuple):
    """The consumer wants to know where it stands. ``received`` says that it has got all that was handed over."""

    received: bool


class RewindRequested(NamedTuple):
    """The consumer wants the last batches that it got again. Nothing follows if so many are not known.

    ``received`` says that what was handed over last is among them; else it comes again besides.
    """

    batches: int
    received: bool


class TaskPlanned(NamedTuple):
    """The sampler gave the indices of one more batch."""

    indices: object


class PlanEnded(NamedTuple):
    """The sampler has no further batch in this epoch."""


class BatchRequested(NamedTuple):
    """The consumer waits for its next batch. ``leases``: the last views into these delivered batches died."""

    leases: tuple[Lease, ...] = ()


class LeaseReturned(NamedTuple):
    """The last view into a delivered batch died, and something else than a batch is asked for, or due."""

    lease: Lease


class CloseRequested(NamedTuple):
    """The loader is to end: no batch is wanted any more."""


# ---------------------------------------------------------------- what processes did


class ProcessReady(NamedTuple):
    """A process finished its imports and takes work; ``at`` is when, by its own clock reading, where it says so.

    ``fell_back``: it was to be on another host, and is on this one, since there was no room.
    """

    process: int
    at: float | None = None
    fell_back: bool = False


class WorkerReady(NamedTuple):
    """A process set a worker up: dataset copy, generators, ``worker_init_fn``, and its place in the epoch.

    ``snapshot`` is the state of its generators after that, or None where they are as seeding left them, or as
    HostWorker gave them. (An iterable dataset may draw random numbers when its iterator is made.) ``begin`` is the
    state before the first iterator was made, where the next process could not have it otherwise. ``compared`` batches
    were loaded again, and were the same.
    """

    process: int
    worker: int
    finished_at: float
    snapshot: object = None
    begin: object = None
    compared: int = 0


class WorkerDiverged(NamedTuple):
    """What a worker loaded again is not what it loaded before, or its dataset did not take its own state.

    It is set up, and of no use. ``how`` is ``differs``, ``ended``, ``raised`` or ``refused``; ``at`` the worker's task
    in the epoch, from 0.
    """

    process: int
    worker: int
    finished_at: float
    how: str
    at: int
    detail: str = ""


class WorkerResumed(NamedTuple):
    """A worker made the iterator of a new epoch, or went back in this one. ``snapshot`` is the state of its generators
    after that, or None where that did not move them; ``content`` what its dataset then says of itself, or None."""

    process: int
    worker: int
    finished_at: float
    snapshot: object = None
    content: object = None


class WorkerMarked(NamedTuple):
    """A worker's dataset told its own state, after all that this process has answered so far."""

    process: int
    worker: int
    content: object


class ShadowTaken(NamedTuple):
    """A process has copied itself, after all that it has answered so far. The copy sleeps, and can make processes
    that go on where it stands."""

    process: int
    shadow: int


class ShadowLost(NamedTuple):
    """A shadow is gone: it was killed, say because memory is short."""

    shadow: int


class TaskLoaded(NamedTuple):
    """A batch lies finished in its lease (``nbytes`` > 0) or came whole in the message (``nbytes`` == 0).

    ``snapshot`` is the state of the worker's generators after the task, or None where the task did not move them.
    ``dropped`` are positions whose sample raised and that the policy said to skip; ``batch`` is None if none is left.
    ``digest`` stands for the batch when it is loaded again; empty where nobody will compare.
    """

    process: int
    task: int
    batch: object
    nbytes: int
    snapshot: object
    taken_at: float
    finished_at: float
    dropped: tuple[tuple[int, str], ...] = ()
    digest: bytes = b""


class TaskRaised(NamedTuple):
    """Loading a batch raised an exception. ``cause`` is ``raised``, or ``unpicklable`` where the batch was loaded but
    cannot be carried; ``sample`` is the position in the batch, where known; ``detail`` says it in one line."""

    process: int
    task: int
    error: object
    cause: str
    sample: int | None
    snapshot: object
    finished_at: float
    digest: bytes = b""
    detail: str = ""


class WorkerEnded(NamedTuple):
    """A worker of an iterable dataset had nothing left for this task."""

    process: int
    task: int
    snapshot: object
    finished_at: float


class TaskCancelled(NamedTuple):
    """A task was not begun, as CancelBefore said."""

    process: int
    task: int
    finished_at: float


class ProbeFinished(NamedTuple):
    """A part of a suspected batch was loaded without harm."""

    process: int
    task: int
    finished_at: float


class WorkerChanged(NamedTuple):
    """The dataset of a worker was seen to change itself (a counter, a cache): another copy of it is not the same.

    Told at most once each time that a worker is set up, before the batch after which it was seen, and only of map-style
    datasets: what an iterable one gives when it is read again is compared.
    """

    process: int
    worker: int


class WorkerUnchanged(NamedTuple):
    """The dataset of a worker was looked at, and is as a new copy of it is: after the task that is answered next.

    Told only of map-style datasets that do not tell a state of their own.
    """

    process: int
    worker: int


class ProcessInspected(NamedTuple):
    """What a process's progress page and the kernel say about it.

    ``task`` / ``setup`` tell what it works on (a task, or setting up a worker), ``sample`` the position in the batch,
    ``state`` the kernel's letter (``R``, ``S``, ``D``, ``T`` ...), ``?`` where it is not known.

    ``elsewhere`` says that a process of a pool works for another loader now, which others watch over;
    ``progressed_at`` counts what it does there.
    """

    process: int
    task: int | None
    setup: int | None
    sample: int | None
    taken_at: float
    progressed_at: float
    state: str
    elsewhere: bool = False


class ProcessLostElsewhere(NamedTuple):
    """A process is lost through no doing of this loader: another one of its pool had it killed, or died in it; its host
    is lost, which another process's exit tells; or it was a failback for which there was no room."""

    process: int


class StacksCaptured(NamedTuple):
    """The Python stacks of a process that is about to be killed."""

    process: int
    text: str


class StartRefused(NamedTuple):
    """A process cannot rebuild what it was given (say, the dataset's module is missing): no retry can help."""

    process: int
    error: object


class ProcessExited(NamedTuple):
    """A process is gone, and the system confirms it. Exit code 0 is no exception.

    ``detail`` is for people (``SIGKILL``, ``exit code 0``). ``memory_short`` says that the kernel killed for memory,
    or that a SIGKILL met a machine with little of it left; ``relieved`` that its pool has one ready in its place.
    """

    process: int
    detail: str
    task: int | None
    setup: int | None
    sample: int | None
    stack: str | None
    memory_short: bool
    relieved: bool = False


class InlineInterrupted(NamedTuple):
    """The watchdog interrupted a task that was loaded in the trainer."""

    task: int
    sample: int | None
    stack: str | None


class InlineRefused(NamedTuple):
    """What a worker did in the trainer was broken off, because it could not be undone there. ``what`` is for people."""

    worker: int
    what: str


class ClockAdvanced(NamedTuple):
    """A deadline may have passed."""


Event = Union[  # noqa: UP007 - a bar between two dozen names is no easier to read
    EpochBegan, EpochResumed, StateRequested, RewindRequested, TaskPlanned, PlanEnded, BatchRequested, LeaseReturned,
    CloseRequested,
    ProcessReady, WorkerReady, WorkerDiverged, WorkerResumed, WorkerMarked, WorkerChanged, WorkerUnchanged,
    ShadowTaken, ShadowLost,
    TaskLoaded, TaskRaised, TaskCancelled, WorkerEnded, ProbeFinished,
    ProcessInspected, ProcessLostElsewhere, StacksCaptured, StartRefused,
    ProcessExited, InlineInterrupted, InlineRefused, ClockAdvanced,
]  # fmt: skip
EVENTS: tuple[type, ...] = get_args(Event)
