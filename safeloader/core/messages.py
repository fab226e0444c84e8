"""The only words that cross the border of the core: events are past facts, commands are imperatives.

All are ``NamedTuple``: immutable, slotted, picklable, and three times cheaper to make than frozen dataclasses (several
are made for every batch). Fields typed ``object`` are opaque: the core carries them and never looks inside.
Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Union, get_args

if TYPE_CHECKING:
    from safeloader.core.state import DatasetSnapshot, Redo, State

__all__ = ["COMMANDS", "EVENTS", "INLINE", "Command", "Event"]

INLINE = 0
"""The process number of the trainer itself: it hosts workers at the lowest rung of the ladder."""


class Lease(NamedTuple):
    """The right to one piece of shared memory, from the sending of a task until the last view of its batch dies."""

    slot: int
    serial: int


# ---------------------------------------------------------------- events: what the consumer and the sampler did


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


class TaskPlanned(NamedTuple):
    """The sampler gave the indices of one more batch."""

    indices: object


class PlanEnded(NamedTuple):
    """The sampler has no further batch in this epoch."""


class BatchRequested(NamedTuple):
    """The consumer waits for its next batch."""


class LeaseReturned(NamedTuple):
    """The last view into a delivered batch died."""

    lease: Lease


class CloseRequested(NamedTuple):
    """The loader is to end: no batch is wanted any more."""


# ---------------------------------------------------------------- events: what processes did


class ProcessReady(NamedTuple):
    """A process finished its imports and takes work; ``at`` is when, by its own clock reading, where it says so."""

    process: int
    at: float | None = None


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
    """A worker made the iterator of a new epoch. ``snapshot`` is the state of its generators after that, or None where
    that did not move them; ``content`` what its dataset then says of itself, or None."""

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
    cannot be carried; ``sample`` is the position in the batch, where known."""

    process: int
    task: int
    error: object
    cause: str
    sample: int | None
    snapshot: object
    finished_at: float
    digest: bytes = b""


class WorkerEnded(NamedTuple):
    """A worker of an iterable dataset had nothing left for this task."""

    process: int
    task: int
    snapshot: object
    finished_at: float


class TaskCancelled(NamedTuple):
    """A task was not begun, as PassOver said."""

    process: int
    task: int
    finished_at: float


class ProbeFinished(NamedTuple):
    """A part of a suspected batch was loaded without harm."""

    process: int
    task: int
    finished_at: float


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
    """A process is lost through no doing of this loader: another one of its pool had it killed, or died in it."""

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


# ---------------------------------------------------------------- commands


class PlanTask(NamedTuple):
    """Draw the next batch of indices from the sampler; answer with TaskPlanned or PlanEnded."""


class StartProcess(NamedTuple):
    """Start a process. A ``standby`` gets everything ready that can be got ready without a worker. With a ``shadow``,
    let that one make it: it has the shadow's workers then, as they stood when the shadow was taken."""

    process: int
    standby: bool = False
    shadow: int | None = None


class DropShadow(NamedTuple):
    """End a shadow. Processes that it made go on."""

    shadow: int


class HostWorker(NamedTuple):
    """Set a worker up in a process: where it stood, its generators included.

    For an iterable dataset: restore ``epoch_snapshot``, make the iterator, replay ``position`` tasks. Then, for every
    dataset, restore ``snapshot``. Either is None where the generators are still as seeding and ``worker_init_fn`` left
    them. With a ``mark``, the dataset's own state is loaded instead, with the generators of then, and only what came
    after it is replayed: the rest of ``position`` tasks, or the tasks ``replay`` (indices, skip).

    ``digests`` are those of the last of the replayed tasks, behind one another: what is loaded again is compared with
    them, and answered by WorkerDiverged where it differs. Without them whatever comes is taken.

    ``lenient``: there is only the trainer for it; what could not be undone there is left out instead of broken off.

    With ``redo``, the process has the worker from its shadow, and does this again; of the rest, ``snapshot`` counts.
    """

    process: int
    worker: int
    epoch: int
    position: int
    ended: bool
    epoch_snapshot: object
    snapshot: object
    mark: DatasetSnapshot | None = None
    replay: tuple[tuple[object, tuple[int, ...]], ...] = ()
    digests: bytes = b""
    lenient: bool = False
    redo: tuple[Redo, ...] | None = None


class DropWorker(NamedTuple):
    """A worker has moved on: its copy in this process can go."""

    process: int
    worker: int


class ResumeWorker(NamedTuple):
    """Begin a new epoch: make the worker's iterator anew, as torch does for persistent workers."""

    process: int
    worker: int
    epoch: int


class SendTask(NamedTuple):
    """Load a batch into a lease. ``skip`` are positions left out by policy."""

    process: int
    worker: int
    task: int
    indices: object
    skip: tuple[int, ...]
    lease: Lease


class CancelBefore(NamedTuple):
    """Begin no task that is numbered below ``before``: nobody wants it. Each is answered with TaskPassed."""

    process: int
    before: int


class SendProbe(NamedTuple):
    """Load only some positions of a suspected batch, and throw the result away."""

    process: int
    worker: int
    task: int
    indices: object
    positions: tuple[int, ...]


class LoadInline(NamedTuple):
    """Load a batch in the trainer, now."""

    worker: int
    task: int
    indices: object
    skip: tuple[int, ...]
    timeout: float


class InspectProcess(NamedTuple):
    process: int


class CaptureStacks(NamedTuple):
    process: int


class KillProcess(NamedTuple):
    process: int


class StopProcess(NamedTuple):
    """Ask a process to end by itself, once it is done with what it has in work; what else it was sent nobody wants."""

    process: int


class AbandonProcess(NamedTuple):
    """Forget a process that cannot be killed; its leases are never used again."""

    process: int


class Deliver(NamedTuple):
    """Hand a batch to the consumer. ``lease`` is None where the batch holds no view into shared memory."""

    task: int
    batch: object
    lease: Lease | None


class DeliverError(NamedTuple):
    """Raise, at this batch's turn, what loading it raised."""

    task: int
    worker: int
    error: object


class DeliverBadSample(NamedTuple):
    """Raise, at this batch's turn, that a sample kills or hangs every process that loads it; or, ``unresolved``, that
    it was in work when one was lost, and that no process can be had to find out more."""

    task: int
    worker: int
    epoch: int
    batch: int
    indices: tuple[object, ...]
    cause: str
    attempts: int
    stack: str | None
    unresolved: bool = False


class EndEpoch(NamedTuple):
    """Every batch of the epoch was delivered."""


class GiveState(NamedTuple):
    """Answer StateRequested; None where the loader ended before that could be known."""

    state: State | None


class FreeSlot(NamedTuple):
    """Give a slot's memory back to the system: more are free than the loader can use."""

    slot: int


class GiveUp(NamedTuple):
    """End the loader with an error: ``cause`` is ``refused`` (a process cannot rebuild what it was given), ``setup``
    (setting a worker up kills or hangs processes), ``restarts`` (too many faults, and no rung left) or ``diverged``
    (what was delivered does not come again; ``error`` is the ReportReplay). Told again on every later
    BatchRequested."""

    cause: str
    error: object
    detail: str


class ReportFault(NamedTuple):
    """Tell of a fault and of what is done about it; ``stalled`` is how long nothing had moved when it was noticed."""

    cause: str
    detail: str
    process: int
    worker: int | None
    task: int | None
    epoch: int
    batch: int | None
    indices: object
    sample: int | None
    stack: str | None
    attempts: int
    stalled: float
    action: str
    again: int | None = None  # batches that are loaded again and compared; None: nothing has to be loaded twice


class ReportReplay(NamedTuple):
    """Tell what came of a worker's coming to its place again.

    ``outcome`` is ``same`` (``compared`` batches came as they had been delivered), ``unknown`` (there was nothing to
    compare), or as in WorkerDiverged. ``source`` is ``state`` (the dataset's own), ``shadow`` or ``beginning``;
    ``of`` how many batches the worker had loaded; ``action`` what is done: ``goes on``, ``reads again`` from further
    back, or ``raises``.
    """

    worker: int
    epoch: int
    outcome: str
    source: str
    at: int
    of: int
    compared: int
    detail: str
    action: str


class ReportRung(NamedTuple):
    """Tell that the number of processes changes by policy."""

    old: int
    new: int
    why: str


class ReportSlow(NamedTuple):
    """Tell of a batch that takes longer than its deadline while its samples still finish."""

    worker: int
    task: int
    epoch: int
    batch: int
    seconds: float
    sample: int | None


class ReportSlowStart(NamedTuple):
    """Tell of a process that is not ready after ``seconds``, while it is waited for."""

    process: int
    seconds: float


class ReportSkipped(NamedTuple):
    task: int
    epoch: int
    batch: int
    indices: tuple[object, ...]
    cause: str
    unresolved: bool = False


class ReportRefused(NamedTuple):
    """Tell that a worker goes from the trainer to a process, because of what it would have done there."""

    worker: int
    what: str


Event = Union[  # noqa: UP007 - a bar between two dozen names is no easier to read
    EpochBegan, EpochResumed, StateRequested, TaskPlanned, PlanEnded, BatchRequested, LeaseReturned, CloseRequested,
    ProcessReady, WorkerReady, WorkerDiverged, WorkerResumed, WorkerMarked, ShadowTaken, ShadowLost, TaskLoaded,
    TaskRaised, TaskCancelled, WorkerEnded, ProbeFinished,
    ProcessInspected, ProcessLostElsewhere, StacksCaptured, StartRefused,
    ProcessExited, InlineInterrupted, InlineRefused, ClockAdvanced,
]  # fmt: skip
Command = Union[  # noqa: UP007
    PlanTask, StartProcess, DropShadow, HostWorker, DropWorker, ResumeWorker, SendTask, CancelBefore, SendProbe,
    LoadInline,
    InspectProcess, CaptureStacks, KillProcess, StopProcess, AbandonProcess,
    Deliver, DeliverError, DeliverBadSample, EndEpoch, GiveState, FreeSlot, GiveUp,
    ReportFault, ReportReplay, ReportRung, ReportSlow, ReportSlowStart, ReportSkipped, ReportRefused,
]  # fmt: skip

EVENTS: tuple[type, ...] = get_args(Event)
COMMANDS: tuple[type, ...] = get_args(Command)
