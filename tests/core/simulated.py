"""The inhabitants of the simulated world: workers that are pure functions of their state, and processes that host them.

A worker's generators are one number. Loading a task makes a batch out of that number and the task, and moves the number
on, so a batch is right only if its worker did exactly what it was to do before, in order, once. Nothing here decides
when something happens: the world does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from safeloader.core import messages as m
from safeloader.core.state import DatasetSnapshot, WorkerPosition


def mix(*parts: int) -> int:
    """A hash chain's next link."""
    return hash(parts)


@dataclass(frozen=True)
class Nature:
    """What the simulated dataset is like. Samples are numbers; those of an iterable dataset are made up from worker and
    position."""

    seed: int = 0
    iterable: bool = False
    batched: bool = True
    lengths: tuple[int, ...] = ()  # of the workers' iterators
    iter_moves: bool = False  # making an iterator draws random numbers
    kills: frozenset[int] = frozenset()
    hangs: frozenset[int] = frozenset()
    fits: tuple[tuple[int, int], ...] = ()  # samples that kill some times, and then never again
    raises: frozenset[int] = frozenset()
    skip_raising: bool = False
    setup_kills: frozenset[int] = frozenset()  # workers
    stateful: bool = False  # loading changes the dataset, which can tell its state
    hidden: bool = False  # loading changes the dataset, which cannot
    keyed: bool = False  # what a sample becomes depends on the epoch
    stateless: bool = False  # and on nothing that was loaded before
    known: bool = True  # the progress page names the sample in work
    lasting: frozenset[int] = frozenset()  # workers that do what cannot be undone
    lying: bool = False  # the state that it tells leaves something out
    refusing: bool = False  # it does not take the state that it told
    shaky: frozenset[int] = frozenset()  # workers whose iterators give something else when they are read again

    @property
    def compared(self) -> bool:
        """Whether batches are loaded again at all."""
        return (self.iterable or self.stateful) and not self.hidden


class Different(Exception):
    """What was loaded again differs: how, and where."""


def digest_of(content: int | None) -> bytes:
    return (content or 0).to_bytes(8, "little", signed=True)


class Outcome(NamedTuple):
    kind: str  # "loaded", "raised", "ended"
    content: int | None
    sample: int | None
    dropped: tuple[tuple[int, str], ...]
    snapshot: int | None


class SimWorker:
    """A worker's state, in a process, in the trainer, or in the undisturbed run that all is compared with."""

    __slots__ = ("ended", "epoch", "id", "memory", "nature", "order", "position", "seen", "state")

    def __init__(self, nature: Nature, worker: int) -> None:
        self.nature = nature
        self.id = worker
        self.state = mix(nature.seed, worker)
        self.epoch = 0
        self.seen = False  # its dataset is known to have changed itself
        self.memory = 0  # what the dataset made of all it has loaded
        self.position = 0
        self.order = 0  # what the iterator drew when it was made: a shuffle, say
        self.ended = False
        self._make_iterator()

    @classmethod
    def as_new(cls, nature: Nature, command: m.HostWorker) -> SimWorker:
        """A new copy, which does again what the lost one did since it was like that."""
        worker, began = cls(nature, command.worker), command.as_new
        assert began is not None
        worker.epoch, worker.position = began.epoch, began.position
        if isinstance(began.snapshot, int):
            worker.state = began.snapshot
            worker._make_iterator()
        if worker.id in nature.shaky and command.redo:
            worker.order = mix(worker.order, command.process)
        return worker.redo(command)

    @classmethod
    def hosted(cls, nature: Nature, command: m.HostWorker) -> SimWorker:
        if command.as_new is not None:
            return cls.as_new(nature, command)
        worker = cls.__new__(cls)
        worker.nature, worker.id, worker.position, worker.ended = nature, command.worker, 0, False
        worker.epoch, worker.seen = command.epoch, False
        worker.state, worker.order, worker.memory = mix(nature.seed, command.worker), 0, 0
        if nature.iterable:
            if isinstance(command.epoch_snapshot, int):
                worker.state = command.epoch_snapshot
            worker._make_iterator()
        if command.mark is not None:
            if nature.refusing:
                raise Different("refused", command.mark.position)
            worker._go_to(command.mark)
        tasks = list(command.replay)
        if nature.iterable:
            tasks = [((0,), ())] * (command.position - worker.position)
        worker._load_again(tasks, command)
        if nature.iterable:
            worker.ended = command.ended or worker.ended
        else:
            worker.position = command.position
        if isinstance(command.snapshot, int):
            worker.state = command.snapshot
        return worker

    def redo(self, command: m.HostWorker) -> SimWorker:
        """Out of a shadow, or a new copy: do again what was done since."""
        for done in command.redo or ():
            if done.back is not None:
                self.go_back(done.back)
            elif done.epoch is not None:
                self.resume(done.epoch)
            elif done.digest and digest_of(self.load(done.indices, done.skip).content) != done.digest:
                if command.as_new is not None and self.id in self.nature.shaky:
                    raise Different("differs", self.position - 1)
                raise AssertionError(f"{done} does not come again as it was")
            elif not done.digest:
                self.load(done.indices, done.skip)
        where = self.position if not self.nature.shaky else command.position  # one that ended early is taken as it is
        if command.ended and not command.position and not self.nature.iterable:  # a state of an epoch that was over
            where = 0
            self.position = 0
        if (where, self.epoch) != (command.position, command.epoch):
            raise AssertionError(f"{command} leads to {self.position} of epoch {self.epoch}")
        if isinstance(command.snapshot, int):
            if command.snapshot != self.state and not self.nature.shaky:
                raise AssertionError(f"{command} leads to other generators")
            self.state = command.snapshot
        return self

    def _load_again(self, tasks: list[Any], command: m.HostWorker) -> None:
        """Load what was loaded before, and compare it with what came then."""
        shaky = self.id in self.nature.shaky and len(tasks) > 0
        if shaky:
            self.order = mix(self.order, command.process)
        start, known = self.position, len(tasks) - len(command.digests) // 8
        for number, (indices, skip) in enumerate(tasks):
            if shaky and self.id == 1 and number == len(tasks) // 2:
                self.ended = True
            outcome = self.load(indices, skip)
            if outcome.kind == "ended":
                if command.digests:
                    raise Different("ended", start + number)
                break
            at = (number - known) * 8
            if number >= known and digest_of(outcome.content) != command.digests[at : at + 8]:
                raise Different("raised" if outcome.kind == "raised" else "differs", start + number)

    def _go_to(self, mark: DatasetSnapshot) -> None:
        assert isinstance(mark.content, tuple)
        self.position, (self.order, self.memory) = mark.position, mark.content
        if self.nature.lying:
            self.memory = mix(self.memory, 8)
        if isinstance(mark.snapshot, int):
            self.state = mark.snapshot

    @property
    def content(self) -> tuple[int, int] | None:
        """What its dataset says of itself."""
        return (self.order, self.memory) if self.nature.stateful else None

    @property
    def tells(self) -> bool:
        """Whether it says so after this task."""
        return self.nature.stateful and self.state % 3 == 0

    def looked(self, process: int) -> list[m.Event]:
        """What is told of its dataset before a task's answer, after some tasks: that it changed itself, for the first
        time, or that it did not yet."""
        if self.seen or self.nature.iterable or self.nature.stateful or mix(self.state, self.position) % 3 == 0:
            return []
        self.seen = self.memory != 0
        return [m.WorkerChanged(process, self.id) if self.seen else m.WorkerUnchanged(process, self.id)]

    def first_state(self, command: m.HostWorker) -> int | None:
        """What WorkerReady tells of the generators."""
        return self._moved(mix(self.nature.seed, self.id)) if command.snapshot is None else None

    def resume(self, epoch: int | None = None) -> int | None:
        before = self.state
        self.epoch = self.epoch + 1 if epoch is None else epoch
        self.position, self.ended = 0, False
        self._make_iterator()
        return self._moved(before)

    def go_back(self, to: WorkerPosition) -> None:
        """Its generators are as they were then; what its dataset changed in itself is not."""
        self.position = to.position
        self.state = to.snapshot if isinstance(to.snapshot, int) else mix(self.nature.seed, self.id)

    def _make_iterator(self) -> None:
        if self.nature.iterable and self.nature.iter_moves:
            self.order = mix(self.state, 6)
            self.state = mix(self.state, 4)

    def _moved(self, before: int) -> int | None:
        return None if self.state == before else self.state

    def samples(self, indices: object, skip: tuple[int, ...]) -> list[tuple[int, int]]:
        """The (position, sample) pairs that loading would touch."""
        if self.nature.iterable:
            if self.ended or self.position >= self.nature.lengths[self.id]:
                return []
            return [(0, sample_of_iterator(self.id, self.position))]
        if not self.nature.batched:
            assert isinstance(indices, int)
            return [(0, indices)]
        assert isinstance(indices, tuple)
        return [(i, s) for i, s in enumerate(indices) if i not in skip]

    def load(self, indices: object, skip: tuple[int, ...]) -> Outcome:
        before, samples = self.state, self.samples(indices, skip)
        if self.nature.iterable and not samples:
            self.ended = True
            return Outcome("ended", None, None, (), None)
        self.position += 1
        ids = [sample for _, sample in samples]
        raising = [(i, s) for i, s in samples if s in self.nature.raises]
        if raising and not self.nature.skip_raising:
            self.state = mix(before, 3, raising[0][1])
            return Outcome("raised", mix(3, self.memory, self.order), raising[0][0], (), self.state)
        if ids[0] % 3 and not self.nature.stateless:  # the others draw no random number
            self.state = mix(before, 2, *ids)
        good = [s for s in ids if s not in self.nature.raises]
        if self.nature.stateless:
            before = self.nature.seed
        content = mix(before, self.order, self.memory, self.epoch * self.nature.keyed, *good) if good else None
        sleeps = self.nature.hidden and not self.nature.iterable and not self.memory and all(s % 3 for s in good)
        if self.nature.stateful or (self.nature.hidden and not sleeps):
            self.memory = mix(self.memory, *good)
        return Outcome("loaded", content, None, tuple((i, "boom") for i, _ in raising), self._moved(before))

    def probe(self) -> None:
        self.state = mix(self.state, 5)


def sample_of_iterator(worker: int, position: int) -> int:
    return worker * 100_000 + position


@dataclass
class Page:
    """What a process's progress page says."""

    task: int | None = None
    setup: int | None = None
    sample: int | None = None
    taken_at: float = 0.0
    progressed_at: float = 0.0


class Job:
    """What a process works on: some steps, then a message."""

    __slots__ = ("command", "event", "steps")

    def __init__(self, command: m.Command, steps: list[tuple[int, int]]) -> None:
        self.command = command
        self.steps = steps
        self.event: m.Event | None = None


class SimProcess:
    """An operating-system process. It moves only in ``step``."""

    def __init__(self, number: int, nature: Nature, now: float, unkillable: bool, fits: dict[int, int]) -> None:
        self.id = number
        self.nature = nature
        self.fits = fits
        self.life = "starting"  # "up", "hung", "stopped", "dead"
        self.unkillable = unkillable
        self.killed = False  # SIGKILL is on its way
        self.asked: deque[tuple[str, int, int]] = deque()  # unanswered messages: kind, about, worker
        self.sent_at: deque[float] = deque()
        self.ready_told = False
        self.probed = False
        self.shadowed = False  # made from a shadow
        self.redone: set[int] = set()  # workers that it has from a shadow
        self.lodgers: set[int] = set()  # the workers that the supervisor believes to live here
        self.inbox: deque[m.Command] = deque()
        self.outbox: deque[m.Event] = deque()
        self.workers: dict[int, SimWorker] = {}
        self.job: Job | None = None
        self.page = Page(taken_at=now, progressed_at=now)
        self.started_at = now
        self.slow_told = False
        self.hurt_by_sample = False  # a bad sample did it
        self.refuses = False  # it cannot rebuild the dataset
        self.condemned = False
        self.asked_for_stacks = False  # it was taken for hung, not for stopped
        self.suspect: tuple[str, int, int] | None = None  # what it was condemned for
        self.told_to_end = False
        self.sentenced = False  # the supervisor had it killed
        self.busy = False  # with another loader's work
        self.stuck = False  # in that
        self.there = now  # when it progressed with that
        self.forfeit = False  # another loader had it killed
        self.killed_elsewhere = False  # told so
        self.standby = False  # nobody was to be hosted by it yet
        self.failback = False  # nor by this: it is of use on another host only
        self.fell_back = False  # it was to be on another host, where there is no room
        self.gone = False  # off the books: its exit was told, or it was abandoned
        self.passed = 0  # no task below this is wanted
        self.writes: list[tuple[int, int]] = []

    # ------------------------------------------------------------ what can happen to it

    @property
    def can_move(self) -> bool:
        if self.life == "starting":
            return True
        return not self.busy and self.life == "up" and (self.job is not None or bool(self.inbox))

    @property
    def spare(self) -> bool:
        """It is to host nobody yet."""
        return self.standby or self.failback

    @property
    def doomed(self) -> bool:
        """The supervisor expects its end."""
        return self.sentenced or self.killed_elsewhere

    def slots(self) -> set[int]:
        """Where it may still write."""
        if self.life == "dead":
            return set()
        jobs = [*self.inbox, self.job.command] if self.job is not None else self.inbox
        return {c.lease.slot for c in jobs if type(c) is m.SendTask}

    def die(self, detail: str, memory_short: bool = False, lost: int = 0) -> None:
        """It ends, and its last ``lost`` messages with it."""
        self.life = "dead"
        for _ in range(min(lost, len(self.outbox))):
            self.outbox.pop()
        page = self.page
        if self.forfeit or (self.busy and not self.sentenced):
            self.outbox.append(m.ProcessLostElsewhere(self.id))
        stack = "Fatal Python error" if detail == "SIGSEGV" else None
        self.outbox.append(m.ProcessExited(self.id, detail, page.task, page.setup, page.sample, stack, memory_short))
        self.inbox.clear()
        self.job = None

    def at(self) -> tuple[str, int, int] | None:
        """What holds it up: the message that its page names, whatever else is unanswered before it; else the oldest."""
        for asked in self.asked:
            if asked[1] == (self.page.setup if asked[0] in ("setup", "resume") else self.page.task):
                return asked
        return self.asked[0] if self.asked else None

    # ------------------------------------------------------------ what it does

    def step(self, now: float) -> None:
        if self.life == "starting" and self.failback and self.fell_back:
            self.forfeit = True
            self.die("exit code 0")
        elif self.life == "starting":
            self.life = "up"
            self.outbox.append(m.ProcessReady(self.id, now, self.fell_back))
        elif self.job is None:
            self._take(self.inbox.popleft(), now)
        elif self.job.steps:
            self._next_sample(self.job, now)
        elif self.job.event is None:
            self.page.progressed_at, self.page.sample = now, None
            self.job.event = self._finish(self.job.command, now)
        else:
            if isinstance(self.job.event, m.TaskLoaded):
                worker = self.workers[self.job.command.worker]  # type: ignore[union-attr]
                self.outbox += [*worker.looked(self.id), self.job.event]
                if worker.tells:
                    self.outbox.append(m.WorkerMarked(self.id, worker.id, worker.content))
            else:
                self.outbox.append(self.job.event)
            self.job, self.page.task, self.page.setup = None, None, None
            self.page.progressed_at = now

    def _take(self, command: m.Command, now: float) -> None:
        page = self.page
        if isinstance(command, m.StopProcess):
            self.die("exit code 0")
            return
        if isinstance(command, m.DropWorker):
            self.workers.pop(command.worker, None)
            return
        if isinstance(command, m.SendTask) and command.task < self.passed:
            self.outbox.append(m.TaskCancelled(self.id, command.task, now))
            return
        page.taken_at = page.progressed_at = now
        page.task = page.setup = page.sample = None
        steps: list[tuple[int, int]] = []
        if isinstance(command, (m.SendTask, m.SendProbe)):
            page.task = command.task
            worker = self.workers[command.worker]
            if isinstance(command, m.SendTask):
                steps = worker.samples(command.indices, command.skip)
                self.writes.append((command.lease.slot, -1 - command.task))
            else:
                steps = [s for s in worker.samples(command.indices, ()) if s[0] in command.positions]
        else:
            assert isinstance(command, (m.HostWorker, m.ResumeWorker, m.RewindWorker))
            page.setup = command.worker
            if self.refuses:
                self.outbox.append(m.StartRefused(self.id, "no module"))
                self.die("exit code 1")
                return
            if command.worker in self.nature.setup_kills:
                self.hurt_by_sample = True
                self.die("SIGSEGV")
                return
            if isinstance(command, m.HostWorker) and command.redo is not None:
                steps = [(0, -1)] * len(command.redo)
            elif isinstance(command, m.HostWorker) and self.nature.iterable:
                steps = [(0, -1)] * command.position
        self.job = Job(command, steps)

    def _next_sample(self, job: Job, now: float) -> None:
        position, sample = job.steps.pop(0)
        self.page.progressed_at = now
        self.page.sample = position if self.nature.known else None
        if sample in self.nature.kills:
            self.hurt_by_sample = True
            self.die("SIGSEGV")
        elif sample in self.nature.hangs:
            self.hurt_by_sample = True
            self.life = "hung"
        elif self.fits.get(sample, 0) > 0:
            self.fits[sample] -= 1
            self.die("SIGSEGV")

    def _finish(self, command: m.Command, now: float) -> m.Event:
        if isinstance(command, m.HostWorker) and command.redo is not None and command.as_new is None:
            self.workers[command.worker].redo(command)
            return m.WorkerReady(self.id, command.worker, now)
        if isinstance(command, m.HostWorker):
            return host(self.nature, command, self.workers, now)
        if isinstance(command, m.ResumeWorker):
            worker = self.workers[command.worker]
            return m.WorkerResumed(self.id, command.worker, now, worker.resume(command.epoch), worker.content)
        if isinstance(command, m.RewindWorker):
            self.workers[command.worker].go_back(command.to)
            return m.WorkerResumed(self.id, command.worker, now)
        if isinstance(command, m.SendProbe):
            self.workers[command.worker].probe()
            return m.ProbeFinished(self.id, command.task, now)
        assert isinstance(command, m.SendTask)
        outcome = self.workers[command.worker].load(command.indices, command.skip)
        if outcome.content is not None and outcome.kind == "loaded":
            self.writes.append((command.lease.slot, outcome.content))
        return result(self.nature, self.id, command.task, outcome, self.page.taken_at, now)


def host(nature: Nature, command: m.HostWorker, workers: dict[int, SimWorker], now: float) -> m.Event:
    """Bring a worker to its place, or tell that it is another one."""
    try:
        worker = workers[command.worker] = SimWorker.hosted(nature, command)
    except Different as different:
        how, at = different.args
        workers[command.worker] = SimWorker(nature, command.worker)
        return m.WorkerDiverged(command.process, command.worker, now, how, at)
    compared = len(command.digests) // 8
    if command.as_new is not None and nature.iterable:
        compared = sum(bool(done.digest) for done in command.redo or ())
    return m.WorkerReady(command.process, command.worker, now, worker.first_state(command), None, compared)


def result(nature: Nature, process: int, task: int, outcome: Outcome, taken_at: float, now: float) -> m.Event:
    """The message that tells of a loaded task."""
    digest = digest_of(outcome.content) if nature.compared else b""
    if outcome.kind == "ended":
        return m.WorkerEnded(process, task, outcome.snapshot, now)
    if outcome.kind == "raised":
        assert outcome.snapshot is not None
        cause = "unpicklable" if outcome.snapshot % 2 else "raised"
        return m.TaskRaised(process, task, "boom", cause, outcome.sample, outcome.snapshot, now, digest)
    inside = process == m.INLINE or outcome.content is None or outcome.content % 4 == 0
    return m.TaskLoaded(
        process, task, outcome.content, 0 if inside else 64, outcome.snapshot, taken_at, now, outcome.dropped,
        digest,
    )  # fmt: skip
