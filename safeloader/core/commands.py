"""Imperatives: what the runtime is to do. It carries them out in their order, and decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Union, get_args

if TYPE_CHECKING:
    from safeloader.core.events import Lease
    from safeloader.core.state import AsNew, DatasetSnapshot, Redo, State, WorkerPosition

__all__ = [
    "COMMANDS", "AbandonProcess", "CancelBefore", "CaptureStacks", "Command", "Deliver", "DeliverBadSample",
    "DeliverError", "DropShadow", "DropWorker", "EndEpoch", "FreeSlot", "GiveState", "GiveUp", "HostWorker",
    "InspectProcess", "KillProcess", "LoadInline", "PlanTask", "ReportFault", "ReportRefused", "ReportReplay",
    "ReportRung", "ReportSkipped", "ReportSlow", "ReportSlowStart", "ReportStay", "ResumeWorker", "RewindWorker",
    "SendProbe", "SendTask", "StartProcess", "StopProcess",
]  # fmt: skip


class PlanTask(NamedTuple):
    """Draw the next batch of indices from the sampler; answer with TaskPlanned or PlanEnded."""


class StartProcess(NamedTuple):
    """Start a process. A ``standby`` gets everything ready that can be got ready without a worker. With a ``shadow``,
    let that one make it: it has the shadow's workers then, as they stood when the shadow was taken. A ``failback`` is
    of use on another host only: it ends where there is no room, and that is told as ProcessLostElsewhere."""

    process: int
    standby: bool = False
    shadow: int | None = None
    failback: bool = False


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
    With ``as_new`` besides, it sets the worker up as it stood there, and does this again.
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
    as_new: AsNew | None = None


class DropWorker(NamedTuple):
    """A worker has moved on: its copy in this process can go."""

    process: int
    worker: int


class ResumeWorker(NamedTuple):
    """Begin a new epoch: make the worker's iterator anew, as torch does for persistent workers."""

    process: int
    worker: int
    epoch: int


class RewindWorker(NamedTuple):
    """Put a worker's generators where they stood after an earlier task; the answer is WorkerResumed. A ``snapshot`` of
    None is as in HostWorker."""

    process: int
    worker: int
    to: WorkerPosition


class SendTask(NamedTuple):
    """Load a batch into a lease. ``skip`` are positions left out by policy."""

    process: int
    worker: int
    task: int
    indices: object
    skip: tuple[int, ...]
    lease: Lease


class CancelBefore(NamedTuple):
    """Begin no task that is numbered below ``before``: nobody wants it. Each is answered with TaskCancelled."""

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
    """Report a fault and what is done about it; ``stalled`` is how long nothing had moved when it was noticed.

    ``verdict`` says what becomes of the batch that was in work: ``again`` (it is loaded again), ``searched`` (parts
    of it are loaded, to find the sample), ``skipped`` (the sample is left out), ``raised`` (its error is raised at its
    turn), ``ended`` (the loader ends), or nothing where no batch is at stake.
    """

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
    verdict: str = ""


class ReportReplay(NamedTuple):
    """Tell what came of a worker's coming to its place again.

    ``outcome`` is ``same`` (``compared`` batches came as they had been delivered), ``unknown`` (there was nothing to
    compare), or as in WorkerDiverged. ``source`` is ``state`` (the dataset's own), ``shadow``,
    ``beginning`` (of this epoch) or ``first`` (of all epochs); ``of`` how many batches the worker had loaded;
    ``action`` what is done: ``goes on``, ``reads again`` from further back, or ``raises``.
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


class ReportStay(NamedTuple):
    """Tell that the number of processes stays, though policy wants fewer: they keep what would be lost."""

    rung: int


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


Command = Union[  # noqa: UP007 - a bar between two dozen names is no easier to read
    PlanTask, StartProcess, DropShadow, HostWorker, DropWorker, ResumeWorker, RewindWorker, SendTask, CancelBefore,
    SendProbe, LoadInline,
    InspectProcess, CaptureStacks, KillProcess, StopProcess, AbandonProcess,
    Deliver, DeliverError, DeliverBadSample, EndEpoch, GiveState, FreeSlot, GiveUp,
    ReportFault, ReportReplay, ReportRung, ReportStay, ReportSlow, ReportSlowStart, ReportSkipped, ReportRefused,
]  # fmt: skip

COMMANDS: tuple[type, ...] = get_args(Command)
