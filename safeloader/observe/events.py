"""What can happen to a loader, as plain facts. Each is told as one line, one event, and one row or count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from safeloader.observe.happening import Happening
from safeloader.observe.stall_events import RanksStalled, Stalled, StallEnded

__all__ = [
    "CAUSES",
    "Closed",
    "CodeChanged",
    "Differs",
    "EpochEnded",
    "Fault",
    "FellBack",
    "Happening",
    "NotUndone",
    "RanksStalled",
    "Recovered",
    "Replayed",
    "Resized",
    "Restarted",
    "Resumed",
    "Skipped",
    "Slow",
    "SlowStart",
    "StallEnded",
    "Stalled",
    "Started",
    "Reopened",
    "Stayed",
    "Unshadowed",
]

LOSSES = ("died", "oom", "hung", "stopped", "failed_start")
"""Causes of faults that cost a process."""
CAUSES = (*LOSSES, "raised", "unpicklable", "bad_sample")
"""The words for what a fault can be."""


@dataclass(frozen=True, slots=True)
class Fault(Happening):
    """Something went wrong. A time of 0 and an empty loader name are filled in by the recorder.

    Attributes:
        time: When, in seconds since 1970.
        loader: Name of the loader.
        cause: The kind of fault: one of `CAUSES`.
        worker: Id of the worker it hit; None if the process hosts several and worked for none.
        process: OS pid of the process; the trainer's own at zero processes; None if there was none yet.
        epoch: Epoch, from 0.
        batch: Number of the batch in work, from 0, or None.
        indices: What the sampler gave for that batch, or None.
        sample: The index that was in work, or None.
        detail: Short words: ``"SIGKILL"``, ``"exit code 0"``, ``"ValueError: bad image"``.
        stack: Python stack of the process, or None.
        attempts: How many times that batch has failed so far, this one included.
        action: What was done: ``"restarted"``, ``"fell back to 2 processes"``, ``"skipped sample 17"``,
            ``"moved to a process"``, ``"abandoned"``, ``"raised"``.
        seconds_lost: From the fault until the batch was there, in seconds; None until that is known.
        stalled: For how many seconds nothing had moved when the fault was noticed, or None.
        again: How many delivered batches are loaded again, and compared; None where none has to be.
        verdict: What becomes of the batch that was in work: ``"again"`` (it is loaded again), ``"searched"`` (parts of
            it are loaded, to find the sample), ``"skipped"`` (the sample is left out), ``"raised"`` (its error is
            raised at its turn), ``"ended"`` (the loader ends with an error); ``""`` where no batch is at stake.
    """

    event: ClassVar[str] = "fault"

    cause: str
    worker: int | None = None
    process: int | None = None
    epoch: int | None = None
    batch: int | None = None
    indices: list[Any] | None = None
    sample: Any = None
    detail: str = ""
    stack: str | None = None
    attempts: int = 1
    action: str = ""
    seconds_lost: float | None = None
    stalled: float | None = None
    again: int | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Replayed(Happening):
    """A worker was brought to its place again in another process, and what is known of that.

    Attributes:
        worker: Id of the worker.
        epoch: Epoch, from 0.
        outcome: ``"same"``: what was loaded again is what was delivered; ``"unknown"``: there was nothing to compare;
            ``"differs"``, ``"ended"`` (earlier than before), ``"raised"``: it is not; ``"refused"``: the dataset did
            not take its own state; ``"missing"``: random generators could not be put back; ``"lost"``: what the
            dataset had changed in itself is lost.
        source: What it began with: ``"beginning"``, ``"state"`` (the dataset's own), ``"generators"`` or ``"dataset"``.
            What is lost is lost with a process (``"dataset"``), or was in no state that was gone on from (``"state"``).
        at: The first of this worker's batches that differs, from 0.
        of: How many batches it had loaded in this epoch.
        compared: How many of them came again as they were.
        detail: An error's text, or the generators' places; "" if there is nothing to say.
        action: ``"goes on"``, ``"reads again"`` (from further back) or ``"raises"``.
    """

    event: ClassVar[str] = "replay"

    worker: int
    epoch: int
    outcome: str
    source: str
    at: int
    of: int
    compared: int
    detail: str
    action: str


@dataclass(frozen=True, slots=True)
class Resumed(Happening):
    """The batch that a fault held up is there.

    Attributes:
        fault: The number of the fault among those of the loader, from 0.
        seconds_lost: Seconds from the fault until that batch was there.
        exact: No batch was lost or changed by it, for certain; False where batches had to be compared.
    """

    event: ClassVar[str] = "resume"

    fault: int
    seconds_lost: float
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Started(Happening):
    """A process is ready, `seconds` after it was begun."""

    event: ClassVar[str] = "start"

    process: int
    workers: list[int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Restarted(Started):
    """A process is ready that takes the place of one lost to a fault."""

    event: ClassVar[str] = "restart"


@dataclass(frozen=True, slots=True)
class FellBack(Happening):
    """Policy lowered the number of processes; where another way was taken, too, `old_way` and `new_way` name it."""

    event: ClassVar[str] = "fallback"

    old: int
    new: int
    why: str
    old_way: str = ""
    new_way: str = ""


@dataclass(frozen=True, slots=True)
class Stayed(Happening):
    """Policy wants fewer processes than `processes`, and lets it be: what their datasets changed would be lost."""

    event: ClassVar[str] = "stayed"

    processes: int


@dataclass(frozen=True, slots=True)
class Recovered(Happening):
    """Policy raised the number of processes again; `old_way` and `new_way` as in `FellBack`."""

    event: ClassVar[str] = "recovery"

    old: int
    new: int
    why: str
    old_way: str = ""
    new_way: str = ""


@dataclass(frozen=True, slots=True)
class Resized(Happening):
    """The images of an epoch have another size, in pixels. `seconds` is what the change took."""

    event: ClassVar[str] = "resize"

    epoch: int
    old: int
    new: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Slow(Happening):
    """A batch takes longer than its deadline, but its samples still finish. `seconds` is its time so far."""

    event: ClassVar[str] = "slow"

    batch: int | None
    worker: int | None
    seconds: float
    sample: Any
    count: int


@dataclass(frozen=True, slots=True)
class Skipped(Happening):
    """A bad sample was left out of its batch."""

    event: ClassVar[str] = "skip"

    epoch: int
    batch: int
    index: Any
    cause: str


@dataclass(frozen=True, slots=True)
class EpochEnded(Happening):
    """An epoch was delivered to its end.

    Attributes:
        epoch: Epoch, from 0.
        batches: Batches delivered in it.
        waited: Seconds that the consumer waited in it.
        ready: Share of its batches that were there when they were asked for, or None.
        rung: Number of processes now.
        timings: For each worker the quantiles of its batches' stages, in seconds, of all epochs so far.
    """

    event: ClassVar[str] = "epoch"

    epoch: int
    batches: int
    waited: float = 0.0
    ready: float | None = None
    rung: int = 0
    timings: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NotUndone(Happening):
    """A worker that the main process hosts did, or was about to do, what the main process could not undo.

    Attributes:
        worker: Its id.
        what: What it was: a call, or what is different now.
        action: ``"moved to a process"``, ``"left out"`` (no process could be had) or ``"done"`` (nothing stopped it).
    """

    event: ClassVar[str] = "not_undone"

    worker: int
    what: str
    action: str


@dataclass(frozen=True, slots=True)
class CodeChanged(Happening):
    """Source files of the dataset differ from those of the first start; a new process runs the new ones."""

    event: ClassVar[str] = "code_changed"

    files: list[str]


@dataclass(frozen=True, slots=True)
class Unshadowed(Happening):
    """A process cannot keep a copy of itself, for this reason: a fault may cost what its dataset changes in itself."""

    event: ClassVar[str] = "unshadowed"

    why: str


@dataclass(frozen=True, slots=True)
class Reopened(Happening):
    """Each worker opens for itself what the dataset held open when the iterator began."""

    event: ClassVar[str] = "reopened"

    what: list[str]


@dataclass(frozen=True, slots=True)
class Differs(Happening):
    """A process could not take over everything from the trainer as it was when the iterator began.

    Attributes:
        process: Its pid.
        what: What differs, and why, in words.
    """

    event: ClassVar[str] = "differs"

    process: int
    what: list[str]


@dataclass(frozen=True, slots=True)
class SlowStart(Happening):
    """A process is not ready after a time in which others were.

    Attributes:
        process: Its pid, or None where it is not known yet.
        seconds: Since it was begun.
        phase: How far it is, in words.
        stack: Its Python stack, where it can tell, or None.
    """

    event: ClassVar[str] = "slow_start"

    process: int | None
    seconds: float
    phase: str
    stack: str | None = None


@dataclass(frozen=True, slots=True)
class Closed(Happening):
    """The loader ended."""

    event: ClassVar[str] = "close"

    batches: int
    epochs: int
    faults: int
    seconds_lost: float
