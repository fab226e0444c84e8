"""What the core remembers: a record a task, a worker, a process. Plain state; the supervisor's parts change it."""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safeloader.core.bisection import Bisection
    from safeloader.core.messages import Deliver, DeliverBadSample, DeliverError, Lease
    from safeloader.core.state import AsNew, DatasetSnapshot, Redo, WorkerPosition

__all__ = [
    "Case",
    "ProcessRecord",
    "ProcessState",
    "Resume",
    "Rewind",
    "TRANSITIONS",
    "Task",
    "TaskState",
    "Work",
    "WorkerRecord",
]


class TaskState(enum.Enum):
    WAITING = "waiting"  # planned, and not (or no longer) with a process
    SENT = "sent"  # with a process, or being loaded in the trainer
    SETTLED = "settled"  # has its result: it is delivered, raised or passed over when its turn comes


class ProcessState(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    CAPTURING = "capturing"  # condemned: its stacks are being read
    KILLING = "killing"  # killed: the exit is not confirmed
    STOPPING = "stopping"  # asked to end
    GONE = "gone"  # its exit is confirmed, or it is abandoned: off the books


TRANSITIONS: Mapping[ProcessState, Mapping[ProcessState, str]] = {
    ProcessState.STARTING: {
        ProcessState.READY: "it answers",
        ProcessState.CAPTURING: "its start takes too long",
        ProcessState.KILLING: "it is not needed any more, or another loader has condemned it",
        ProcessState.STOPPING: "the same, in a pool: others wait for it, too",
        ProcessState.GONE: "it dies",
    },
    ProcessState.READY: {
        ProcessState.CAPTURING: "a deadline has passed, and it works on that batch still",
        ProcessState.KILLING: "somebody has stopped it, a shadow takes its place, or another loader has condemned it",
        ProcessState.STOPPING: "it is not needed any more, or the loader closes",
        ProcessState.GONE: "it dies",
    },
    ProcessState.CAPTURING: {
        ProcessState.READY: "it answers after all",
        ProcessState.KILLING: "its stacks are read, or it does not give them",
        ProcessState.GONE: "it dies",
    },
    ProcessState.STOPPING: {
        ProcessState.KILLING: "it does not end by itself",
        ProcessState.GONE: "it ends",
    },
    ProcessState.KILLING: {ProcessState.GONE: "its exit is confirmed, or it cannot be killed and is abandoned"},
    ProcessState.GONE: {},
}
"""What can become of a process, and why. The picture in docs/core.md is drawn from it; walks show that all of it, and
nothing else, happens."""


@dataclass(slots=True, eq=False)
class Case:
    """What is held against a task: the processes that died or hung with it."""

    failures: int = 0  # how many since the last verdict
    attempts: int = 0  # how many in all
    hangs: int = 0  # how many of these hung: each doubles the deadline
    cause: str = ""  # of the last one
    sample: int | None = None  # the position that was in work then, where known
    same_sample: bool = True  # it was that position each time since the last verdict
    stack: str | None = None
    skip: tuple[int, ...] = ()  # positions found bad, and left out by policy
    outside: bool = False  # the last one was killed by somebody else: its next attempt need not be alone
    cleared: bool = False  # a search found no culprit once already


@dataclass(slots=True, eq=False)
class Task:
    """One batch to load. ``id`` counts over all epochs, ``batch`` within one."""

    id: int
    epoch: int
    batch: int
    worker: int
    indices: object
    state: TaskState = TaskState.WAITING
    lease: Lease | None = None
    result: Deliver | DeliverError | DeliverBadSample | None = None  # None, once settled: there is nothing in it
    place: int | None = None  # once finished: the worker's position after it ...
    snapshot: object = None  # ... and its generators
    before: object = None  # the same before it
    given: bool = False  # the consumer got a batch, not an error or nothing
    last: bool = False  # the worker's iterator ended with it
    abandoned: bool = False  # of an epoch that was broken off: finished as in torch, and dropped
    case: Case | None = None

    @property
    def quarantined(self) -> bool:
        """True if it killed or hung a process: it is never loaded in the trainer."""
        return self.case is not None

    @property
    def attempts(self) -> int:
        return 0 if self.case is None else self.case.attempts

    @property
    def hangs(self) -> int:
        return 0 if self.case is None else self.case.hangs

    @property
    def skip(self) -> tuple[int, ...]:
        return () if self.case is None else self.case.skip

    def positions(self, batched: bool) -> tuple[int, ...]:
        """The positions of the batch that are not left out."""
        try:
            count = len(self.indices) if batched else 1  # type: ignore[arg-type]
        except TypeError:
            count = 1
        return tuple(i for i in range(count) if i not in self.skip)

    def names(self, positions: tuple[int, ...]) -> tuple[object, ...]:
        """The indices at these positions, as the sampler named them."""
        return tuple(self._name(position) for position in positions)

    def _name(self, position: int) -> object:
        try:
            return self.indices[position]  # type: ignore[index]
        except (TypeError, IndexError, KeyError):
            return self.indices


@dataclass(slots=True, eq=False)
class Resume:
    """In a worker's queue: begin this epoch, before its tasks."""

    epoch: int


@dataclass(slots=True, eq=False)
class Rewind:
    """In a worker's queue: go back in this epoch, before its tasks are loaded again."""

    epoch: int
    to: WorkerPosition


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """What ``get_worker_info()`` describes; it outlives the processes that host it."""

    id: int
    host: int | None = None
    moving: bool = False  # leaves its process as soon as nothing of it is in flight
    waiting: deque[Task | Resume | Rewind] = field(default_factory=deque)
    sent: deque[Task | Resume | Rewind] = field(default_factory=deque)
    snapshot: object = None
    epoch: int = 0
    epoch_snapshot: object = None
    position: int = 0  # tasks finished in this epoch: an iterator is replayed to here
    exhausted: bool = False  # its iterator has nothing left
    got: int = 0  # position, generators and end, as far as the consumer got its tasks
    got_snapshot: object = None
    got_end: bool = False
    # The oldest is the newest that the consumer has reached.
    marks: deque[DatasetSnapshot] = field(default_factory=deque)
    first: DatasetSnapshot | None = None  # what its reading of this epoch began with, if the dataset told a state then
    log: deque[tuple[object, tuple[int, ...]]] = field(default_factory=deque)  # (indices, skip) since then, if needed
    digests: bytearray = field(default_factory=bytearray)  # of the last of its tasks up to `position`
    way: int = 0  # the best way to its place that was not found wrong (`ways`)
    begun: bool = False  # it has begun more than one epoch
    taken: bool = False  # no way leads to its place, and policy takes what comes
    checking: bool = False  # it is being brought to its place: nothing is sent behind that
    ended: bool = False  # the same, for the planning of the current epoch
    outstanding: int = 0  # planned, not delivered: balances out-of-order loading
    setup_failures: int = 0  # processes that died or hung while setting it up, since it last finished a task
    setup_hangs: int = 0  # how many of these hung: each doubles the deadline
    barred: bool = False  # from the trainer, which could not undo what it does
    changed: bool = False  # its dataset has changed itself where it is hosted: moving it would lose that
    unchanged: bool = False  # it has not, after the task that is answered next (`new_copy`)
    done: list[Redo] | None = None  # what a new copy of its dataset has to do again; None: not known
    done_in: float = 0.0  # seconds that it took
    done_samples: int = 0  # in how many samples
    as_new: AsNew | None = None  # where it stood before that
    lenient: bool = False  # the trainer is all there is for it, barred or not
    search: Bisection | None = None

    @property
    def quarantined(self) -> bool:
        """True if something it has to do hurt a process before: that is never done in the trainer."""
        return self.setup_failures > 0 or any(
            isinstance(i, Task) and i.quarantined for i in (*self.waiting, *self.sent)
        )

    @property
    def is_harmless(self) -> bool:
        """True if nothing that it has to do is suspected of more than to have been there when a process was killed."""
        suspected = [i.case for i in self.waiting if isinstance(i, Task) and i.case is not None]
        return self.setup_failures == 0 and all(case.outside and case.attempts == 1 for case in suspected)

    @property
    def needs_process(self) -> bool:
        """True if it must not be hosted by the trainer."""
        return self.quarantined or (self.barred and not self.lenient)


@dataclass(slots=True, eq=False)
class Work:
    """One message in flight to a process. ``about`` is what its answer names: a task, or else a worker."""

    kind: Literal["setup", "resume", "task", "probe"]
    about: int
    worker: int
    task: Task | None
    sent_at: float
    redone: bool = False  # a worker that came with its process from a shadow


@dataclass(slots=True, eq=False)
class ProcessRecord:
    """An operating-system process that hosts workers. Its number is never used again: it is the generation."""

    id: int
    state: ProcessState = ProcessState.STARTING
    workers: set[int] = field(default_factory=set)
    work: deque[Work] = field(default_factory=deque)  # in flight, oldest first
    since: float = 0.0  # when it finished something last, by its own clock reading
    deadline: float = math.inf
    standby: bool = False  # it waits for another to die; it hosts nobody
    fell_back: bool = False  # it was to be on another host, where there was no room
    failback: bool = False  # it is to be there in place of one that fell back; it hosts nobody yet
    replaced: bool = False  # it retires because of that: only what loses nothing by it moves
    retiring: bool = False  # policy wants fewer processes: it ends when its workers have moved
    asked: bool = False  # it was told to end: its exit is no fault
    killed_elsewhere: bool = False  # another loader's doing: nor is this
    slow_reported: int | None = None
    kept: set[int] = field(default_factory=set)  # made from a shadow: workers in it that are to be hosted here
    slow_start_told: bool = False
    grace_used: Work | None = None  # it was idle when this was overdue: that excuses it once
    cause: str | None = None  # why it is condemned; the fields below belong to that
    suspect: Work | None = None
    sample: int | None = None
    stalled: float = 0.0
    stack: str | None = None

    def become(self, state: ProcessState) -> None:
        """Change its state, as `TRANSITIONS` allows.

        Raises:
            AssertionError: that is no change that a process can go through.
        """
        assert state in TRANSITIONS[self.state], f"process {self.id} cannot become {state.name} from {self.state.name}"
        self.state = state

    @property
    def alive(self) -> bool:
        """True if it may be given work, now or once it is ready."""
        return self.state is ProcessState.STARTING or self.state is ProcessState.READY

    @property
    def spare(self) -> bool:
        """True if it hosts nobody on purpose."""
        return self.standby or self.failback

    @property
    def condemned(self) -> bool:
        """True from the verdict to the confirmed exit."""
        return self.state is ProcessState.CAPTURING or self.state is ProcessState.KILLING
