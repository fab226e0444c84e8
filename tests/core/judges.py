"""Those who compare: the consumer checks order and memory, the undisturbed run checks content."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from safeloader.core import messages as m
from safeloader.core.state import State

from .simulated import SimWorker

if TYPE_CHECKING:
    from .world import World


class Broken(AssertionError):
    """The supervisor did something wrong."""


class Consumer:
    """Asks for batches, in order, and holds on to them. Also the sampler."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = world.plot.settings
        self.epoch = -1
        self.waiting = False
        self.over = False  # the epoch is
        self.received = 0
        self.received_since_rung = 0
        self.held: list[tuple[m.Lease, int]] = []
        self.returned: deque[m.Lease] = deque(maxlen=20)
        self._coming_back: list[m.Lease] = []  # with the next request
        self._plan: list[object] = []
        self._next = 0  # in order: the first of the plan that has not come
        self._left: set[object] = set()  # out of order: those that have not come
        self._came = 0
        self._ended = False  # the sampler has
        self._empties: set[object] = set()
        self._dropped: dict[object, set[object]] = {}
        self._remaining: list[int] = []  # of iterators, for the rotation
        self._turn = 0
        self._plans: dict[int, list[Any]] = {}  # of the epochs before
        self._most_drawn = 0  # before the program that runs now
        self.got: list[tuple[object, int, bool]] = []  # in this epoch: indices, worker, whether it was a batch
        self.batches: list[object] = []  # those of `got` that are no errors: their indices
        self.before: Saved | None = None  # as it was before the last thing was handed over

    # ------------------------------------------------------------ programs end, others begin

    def saved(self) -> Saved:
        """All that may have to be as it was."""
        return _copied({name: value for name, value in vars(self).items() if name not in _NOT_SAVED})

    def go_back(self, saved: Saved, state: State) -> None:
        """Be as it was, with the sampler where the state says: what was got must be neither planned nor missing."""
        drawn = list(self._plan if self.epoch == state.epoch else self._plans[state.epoch])
        vars(self).update(_copied(saved))  # another program may go on from the same state
        self.waiting, self.before, self.received_since_rung = False, None, 0
        self.held, self._coming_back, self._plan = [], [], drawn
        self.returned.clear()
        if self.epoch != state.epoch or self.over != state.over:
            raise Broken(f"{state}, and it is epoch {self.epoch}, over: {self.over}")
        if self._world.nature.iterable:
            self._left, self._next, count = set(), len(drawn), len(self.got)
        else:
            self._plan, count = drawn[: state.drawn], state.drawn - len(state.planned)
            self._most_drawn = state.drawn
            got = {indices for indices, _, _ in self.got}
            self._check_planned(state, got)
            self._ended = state.exhausted
            if state.exhausted and state.drawn != self._world.plot.batches:
                raise Broken(f"{state}, and the sampler has more")
        if state.batch != count:
            raise Broken(f"{state} after {count} batches")

    def _check_planned(self, state: State, got: set[object]) -> None:
        planned = [p.indices for p in state.planned]
        self._left = set(self._plan) - got
        if len(set(planned)) < len(planned) or got & set(planned):
            raise Broken(f"{planned} are planned, and {got} were got")
        self._empties -= set(planned)
        if set(planned) != self._left - self._empties:
            raise Broken(f"{planned} are planned, and {self._left} are left, {self._empties} of them empty")
        if self._settings.in_order and planned != [i for i in self._plan if i in set(planned)]:
            raise Broken(f"{planned} are planned in this order")
        for task in state.planned:
            names = task.indices if isinstance(task.indices, tuple) else (task.indices,)
            self._dropped[task.indices] = {names[i] for i in task.skip}
            if len(self._dropped[task.indices]) == len(names):
                self.empty(task.indices)

    def take_back(self, batches: int, received: bool) -> set[object]:
        """It wants its last batches again. Returns the indices of all that is not got any more."""
        known = vars(self) if received or self.before is None else self.before
        cut = [indices for indices, _, _ in self.got].index(known["batches"][-batches])
        self.batches = known["batches"][:-batches]
        again, self.got = self.got[cut:], self.got[:cut]
        self.before, self.over, self.waiting = None, False, False
        self._left |= {indices for indices, _, _ in again}
        self._came -= len(again)
        self._next = min(self._next, *(self._plan.index(indices) for indices, _, _ in again))
        self._most_drawn = max(self._most_drawn, len(self._plan))
        return {indices for indices, _, _ in again}

    def drop_again(self, info: TaskInfo) -> None:
        """A task is loaded again: what was left out of it is left out again."""
        names = info.indices if isinstance(info.indices, tuple) else (info.indices,)
        self._dropped[info.indices] = {names[i] for i in info.skip}

    # ------------------------------------------------------------ the sampler

    def begin(self) -> None:
        """A new epoch; whatever is left of the last one is not wanted any more."""
        self._plans[self.epoch] = self._plan
        self.epoch += 1
        self.waiting = self.over = self._ended = False
        self._plan, self._next, self._came, self._left = [], 0, 0, set()
        self._empties, self._dropped = set(), {}
        self._most_drawn, self.got, self.batches, self.before = 0, [], [], None
        self._remaining, self._turn = list(self._world.nature.lengths), 0
        self._world.tell(m.EpochBegan(self.epoch))

    def draw(self) -> m.Event:
        plot, batch = self._world.plot, len(self._plan)
        if not plot.nature.iterable and batch >= plot.batches:
            self._ended = True
            return m.PlanEnded()
        first = (self.epoch * 1000 + batch) * plot.batch_size
        indices: object
        if plot.nature.iterable:
            indices = (self.epoch * 1000 + batch,) * plot.batch_size
        else:
            indices = tuple(range(first, first + plot.batch_size)) if plot.nature.batched else first
        self._plan.append(indices)
        self._left.add(indices)
        return m.TaskPlanned(indices)

    def check_draws(self) -> None:
        """As many draws as torch's loader would have made by now."""
        if self._world.closed or self.epoch < 0 or self._world.nature.iterable:
            return
        window = self._settings.prefetch_factor * self._settings.num_workers
        drawn, total = len(self._plan), self._world.plot.batches
        left = self._came + len(self._empties)
        if drawn > max(window + left, self._most_drawn) or (drawn < min(total, window + self._came)):
            raise Broken(f"{drawn} draws, window {window}, {self._came} came, {len(self._empties)} empty")

    # ------------------------------------------------------------ the consumer

    def request(self) -> None:
        self.waiting, self.before = True, None
        self._world.tell(self.asking())

    def asking(self) -> m.BatchRequested:
        """A request, with what comes back with it, and something that came back before."""
        back, self._coming_back = self._coming_back, []
        return m.BatchRequested((*list(self.returned)[-1:], *back) if back else ())

    def receive(self, c: m.Deliver | m.DeliverError | m.DeliverBadSample) -> None:
        if not self.waiting:
            raise Broken(f"{c}, and nobody asked")
        self.before = self.saved()
        self.waiting = False
        self._came += 1
        info = self._world.undisturbed.tasks.get(c.task)
        if info is None or info.epoch != self.epoch:
            raise Broken(f"{c} is not of this epoch")
        self.got.append((info.indices, info.worker, not isinstance(c, m.DeliverBadSample)))
        self._in_turn(info.indices)
        if self._world.nature.iterable and self._settings.in_order and not self._world.undisturbed.adopted:
            self._in_rotation(info.worker, isinstance(c, m.DeliverBadSample))
        if isinstance(c, m.Deliver):
            self.batches.append(info.indices)
            self.received += 1
            self.received_since_rung += 1
            if c.lease is not None:
                if self._world.slots.get(c.lease.slot) != c.batch:
                    raise Broken(f"slot {c.lease.slot} holds something else than task {c.task}")
                self.held.append((c.lease, c.batch))  # type: ignore[arg-type]

    def _in_turn(self, indices: object) -> None:
        if indices not in self._left:
            raise Broken(f"{indices} came twice")
        self._left.discard(indices)
        if not self._settings.in_order:
            return
        while self._plan[self._next] != indices:
            if self._plan[self._next] not in self._empties and not self._world.nature.iterable:
                raise Broken(f"{indices} came before {self._plan[self._next]}")
            self._next += 1
        self._next += 1

    def _in_rotation(self, worker: int, is_last: bool) -> None:
        """Iterators take turns; those with nothing left drop out."""
        if is_last and not self._remaining[worker]:
            return  # of a task that would have found the iterator's end
        if not any(self._remaining):
            raise Broken("a batch after the last")
        while not self._remaining[self._turn]:
            self._turn = (self._turn + 1) % len(self._remaining)
        if worker != self._turn:
            raise Broken(f"a batch of worker {worker}, and it is worker {self._turn}'s turn")
        self._remaining[worker] = 0 if is_last else self._remaining[worker] - 1
        self._turn = (self._turn + 1) % len(self._remaining)

    def empty(self, indices: object) -> None:
        """This task has nothing to deliver."""
        self._empties.add(indices)

    def skipped(self, c: m.ReportSkipped) -> None:
        info = self._world.undisturbed.tasks[c.task]
        dropped = self._dropped.setdefault(info.indices, set())
        if dropped & set(c.indices):
            raise Broken(f"{c.indices} are reported twice")
        dropped |= set(c.indices)
        if c.epoch == self.epoch and len(dropped) == (self._world.plot.batch_size if self._batched else 1):
            self.empty(info.indices)

    @property
    def _batched(self) -> bool:
        return self._world.nature.batched

    def end_epoch(self) -> None:
        if not self.waiting:
            raise Broken("the epoch ends, and nobody asked")
        self.before = self.saved()
        self.waiting, self.over = False, True
        left = self._left - self._empties
        if self._world.nature.iterable:
            if self._settings.in_order and any(self._remaining) and not self._world.undisturbed.adopted:
                raise Broken(f"the epoch ends, and iterators have {self._remaining} left")
            return
        if left or not self._ended or len(self._plan) != self._world.plot.batches:
            raise Broken(f"the epoch ends without {left}")

    def release(self, number: int) -> None:
        lease, _ = self.held.pop(number)
        self.returned.append(lease)
        if lease.serial % 2:
            self._world.tell(m.LeaseReturned(lease))
        else:
            self._coming_back.append(lease)


_NOT_SAVED = ("_world", "_settings", "_plans", "_coming_back", "held", "returned", "before")
Saved = dict[str, Any]


def _copied(saved: Saved) -> Saved:
    kinds: Any = (list, set, dict)
    return {name: type(value)(value) if isinstance(value, kinds) else value for name, value in saved.items()}


class TaskInfo:
    __slots__ = (
        "epoch",
        "failures",
        "hangs",
        "hurt_by_chance",
        "indices",
        "settled",
        "skip",
        "taken_back",
        "unattainable",
        "wanted",
        "worker",
    )  # fmt: skip

    def __init__(self, epoch: int, indices: object, worker: int, skip: tuple[int, ...] = ()) -> None:
        self.epoch = epoch
        self.indices = indices
        self.worker = worker
        self.skip = skip
        self.failures = 0  # so many processes
        self.hangs = 0  # so many of them hung
        self.unattainable = False  # it must not be loaded in the trainer, and no process can be had
        self.hurt_by_chance = 0  # so many of them by the world's own doing
        self.wanted = True  # by the consumer, when it hurt a process last
        self.settled = ""  # "loaded", "raised", "ended", "passed"
        self.taken_back = False  # the same is planned again, under another number


Deed = tuple[object, tuple[int, ...], str]  # indices, skip, outcome


REWOUND = -1  # among the numbers of tasks


def _do(worker: SimWorker, deed: Deed | None) -> None:
    if deed is None:
        worker.resume()
    elif deed[2] == "passed":
        worker.ended = True
    else:
        worker.load(deed[0], deed[1])


class Undisturbed:
    """Runs every worker as if nothing ever happened, one accepted result behind the other."""

    def __init__(self, world: World) -> None:
        self._world = world
        settings = world.plot.settings
        self._workers = [SimWorker(world.nature, i) for i in range(settings.num_workers)]
        self._ahead: list[deque[int | None]] = [deque() for _ in self._workers]  # tasks; None: a new epoch
        self._past: list[list[Deed | None]] = [[] for _ in self._workers]  # what each has done; None: a new epoch
        self._content: dict[int, Any] = {}
        self._assigned: dict[int, int] = {}
        self._next_task = 0
        self.tasks: dict[int, TaskInfo] = {}
        self.setups_hurt: dict[int, int] = {}
        self.setups_hung: dict[int, int] = {}
        self.spared: set[int] = set()  # workers that may be in the trainer, since there is nothing else for them
        self.faults_in_a_row = 0  # with nothing finished in between
        self.proven = False  # a process could rebuild the dataset
        self.refused_for_good = False
        self.adopted: set[int] = set()  # workers that are not what they would have been, and that was told

    def adopt(self, worker: int, now: SimWorker) -> None:
        """From here on, this is what the worker does."""
        self.adopted.add(worker)
        self._workers[worker] = now

    def go_back(self, state: State) -> None:
        """Another program goes on from this state: what the consumer did not get will be done again."""
        self.tasks.clear()
        self._content.clear()
        self._assigned.clear()
        self.setups_hurt.clear()
        self.setups_hung.clear()
        self.spared.clear()
        self._next_task = self.faults_in_a_row = 0
        self.proven = self.refused_for_good = False
        self._ahead = [deque() for _ in self._workers]
        planned = {task.indices for task in state.planned}
        for worker in range(len(self._workers)):
            self._go_back(worker, planned, state.workers[worker].ended and not state.over)

    def _go_back(self, number: int, planned: set[object], ended: bool) -> None:
        past, worker = self._past[number], SimWorker(self._world.nature, number)
        begun = max([i + 1 for i, deed in enumerate(past) if deed is None], default=0)
        got = sum(batch for _, who, batch in self._world.consumer.got if who == number)
        for i, deed in enumerate(past):
            if i >= begun and deed is not None:
                worth = deed[2] in ("loaded", "raised")
                if deed[0] in planned or (self._world.nature.iterable and worth and got == 0):
                    del past[i:]
                    break
                got -= worth
            _do(worker, deed)
        worker.ended = worker.ended or ended
        self._workers[number] = worker

    def take_back(self, wanted: set[object]) -> None:
        """What has been planned again just now was not done, nor what its workers did after it."""
        planned = [task for number, task in self._world.sup.tasks.items() if number >= self._next_task]
        again, workers = {task.indices for task in planned}, {task.worker for task in planned}
        if wanted - again:
            raise Broken(f"{wanted - again} are wanted again, and not planned")
        for info in self.tasks.values():
            if info.epoch == self._world.consumer.epoch and info.indices in again and not info.taken_back:
                info.taken_back = True
                if info.settled in ("loaded", "raised"):
                    self._world.consumer.drop_again(info)
                info.settled = info.settled or "taken back"
        for worker in workers:
            ahead = [n for n in self._ahead[worker] if n in (None, REWOUND) or not self.tasks[n].taken_back]  # type: ignore[index]
            self._ahead[worker] = deque([*ahead, REWOUND])
            self._go_back(worker, again, ended=False)
        self.look()

    # ------------------------------------------------------------ what is asked of whom

    def look(self) -> None:
        """Read from the ledger which worker got the tasks that were planned last."""
        tasks = self._world.sup.tasks
        while self._next_task in tasks:
            task = tasks[self._next_task]
            self.tasks[task.id] = info = TaskInfo(task.epoch, task.indices, task.worker, task.skip)
            self._next_task += 1
            self._hurt_before(info)
            if task.state.name == "SETTLED":  # found bad in another program, or before it was taken back
                info.settled = "passed"
            else:
                self._ahead[task.worker].append(task.id)
            plot = self._world.plot
            if plot.settings.in_order and not plot.nature.iterable:
                if task.worker != task.batch % len(self._workers):
                    raise Broken(f"batch {task.batch} went to worker {task.worker}")

    def _hurt_before(self, info: TaskInfo) -> None:
        """The same was planned before, and is planned again."""
        for old in self.tasks.values():
            if old.taken_back and old.indices == info.indices and old is not info:
                info.failures, info.hangs, info.hurt_by_chance = old.failures, old.hangs, old.hurt_by_chance
                info.unattainable = old.unattainable

    def sent(self, c: m.SendTask | m.LoadInline) -> None:
        self.look()
        info = self.tasks[c.task]
        if info.settled:
            raise Broken(f"task {c.task} is {info.settled}, and loaded again")
        if info.worker != c.worker or info.indices != c.indices:
            raise Broken(f"{c} is for worker {info.worker}")
        if self._world.nature.stateless and info.epoch != self._world.consumer.epoch:
            raise Broken(f"{c}, and nobody wants it")
        info.skip = c.skip
        self._assigned[c.task] = c.process if isinstance(c, m.SendTask) else m.INLINE

    # ------------------------------------------------------------ what is answered

    def hear(self, event: m.Event) -> None:
        """Before the supervisor hears of it: what it has to believe, and what that must contain."""
        if isinstance(event, m.EpochBegan):
            self.look()
            if event.epoch > 0:
                for ahead in self._ahead:
                    ahead.append(None)
        elif isinstance(event, m.WorkerReady):
            self.proven |= event.process != m.INLINE and self._counts(event.process)
        elif isinstance(event, m.StartRefused):
            worker = self._world.processes[event.process].asked[0][2]
            attempts = self._world.plot.settings.bad_sample_attempts
            self.refused_for_good = not self.proven or self.setups_hurt.get(worker, 0) >= attempts
        elif isinstance(event, m.WorkerResumed):
            if self._counts(event.process) and self._pass_to_beginning(event.worker) is None:
                self._workers[event.worker].resume()
                self._past[event.worker].append(None)
        elif isinstance(event, (m.TaskLoaded, m.TaskRaised, m.WorkerEnded)):
            if self._counts(event.process) and self._assigned.get(event.task) == event.process:
                self._finished(event)

    def _counts(self, number: int) -> bool:
        return number == m.INLINE or not self._world.processes[number].gone

    def _finished(self, event: m.TaskLoaded | m.TaskRaised | m.WorkerEnded) -> None:
        info = self.tasks[event.task]
        self.setups_hurt[info.worker] = self.setups_hung[info.worker] = self.faults_in_a_row = 0
        if info.settled:
            return
        self._pass_to(info.worker, event.task)
        outcome = self._workers[info.worker].load(info.indices, info.skip)
        info.settled = outcome.kind
        self._past[info.worker].append((info.indices, info.skip, outcome.kind))
        if isinstance(event, m.TaskLoaded):
            exact = not (self._world.nature.hidden and info.worker in self._world.inexact)
            if outcome.kind != "loaded" or (exact and outcome.content != event.batch):
                raise Broken(f"task {event.task} differs from the undisturbed run")
            self._content[event.task] = event.batch
        elif outcome.kind != ("raised" if isinstance(event, m.TaskRaised) else "ended"):
            raise Broken(f"{event}, and undisturbed it is {outcome}")
        if outcome.content is None and info.epoch == self._world.consumer.epoch:
            self._world.consumer.empty(info.indices)

    def _pass_to(self, worker: int, task: int | None) -> None:
        """Everything that this worker had to do before must be done, or given up for good reason."""
        self.look()
        ahead = self._ahead[worker]
        while ahead and ahead[0] != task:
            self._give_up_on(ahead.popleft(), worker)
        if not ahead:
            raise Broken(f"worker {worker} was not asked for {task}")
        ahead.popleft()

    def _pass_to_beginning(self, worker: int) -> int | None:
        """It begins an epoch (None), or goes back."""
        self.look()
        begins = [task for task in self._ahead[worker] if task is None or task == REWOUND]
        if not begins:
            raise Broken(f"worker {worker} was not asked to begin anything")
        self._pass_to(worker, begins[0])
        return begins[0]

    def _give_up_on(self, task: int | None, worker: int) -> None:
        if task is None or task == REWOUND:
            raise Broken(f"worker {worker} missed the new epoch, or did not go back")
        info = self.tasks[task]
        if self._world.nature.stateless and info.epoch != self._world.consumer.epoch:
            info.settled = "passed"
            return
        if info.failures <= self._world.plot.settings.bad_sample_attempts and not info.unattainable:
            raise Broken(f"task {task} of worker {worker} was left out or passed over")
        info.settled = "passed"
        if self._world.nature.iterable and info.wanted:
            self._workers[worker].ended = True
            self._past[worker].append((info.indices, (), "passed"))

    # ------------------------------------------------------------ harm

    def hangs(self, kind: str, about: int, worker: int) -> int:
        """How often this hung: each time doubles the time it is given."""
        if kind in ("setup", "resume"):
            return self.setups_hung.get(worker, 0)
        return self.tasks[about].hangs if kind == "task" else 0

    def failures(self, kind: str, about: int, worker: int, by_sample: bool, hung: bool = False) -> None:
        """A process died or hung with this oldest in flight."""
        if kind in ("setup", "resume"):
            self.setups_hurt[worker] = self.setups_hurt.get(worker, 0) + 1
            self.setups_hung[worker] = self.setups_hung.get(worker, 0) + hung
            return
        info = self.tasks[about]
        info.hurt_by_chance += not by_sample
        if kind == "task":
            info.failures += 1
            info.hangs += hung
            info.wanted = info.epoch == self._world.consumer.epoch

    def none_to_be_had(self) -> None:
        """At the lowest rung too many processes were lost: what must not be loaded in the trainer may be given up."""
        self.look()
        for number, info in self.tasks.items():
            task = self._world.sup.tasks.get(number)
            info.unattainable |= info.failures > 0 or bool(info.skip or (task is not None and task.skip))
        self.spared |= self._world.refused

    def convicted(self, task: int, names: tuple[object, ...], unresolved: bool) -> None:
        """Samples of a task are called bad: they must be, or must be suspected and not to be tried anywhere."""
        info, nature = self.tasks[task], self._world.nature
        if unresolved:
            if not info.unattainable:
                raise Broken(f"task {task} is given up")
            return
        if info.failures <= self._world.plot.settings.bad_sample_attempts:
            raise Broken(f"task {task} is convicted for {info.failures} deaths")
        if info.hurt_by_chance or nature.iterable:
            return
        bad = nature.kills | nature.hangs
        if len(names) != 1 or names[0] not in bad:
            raise Broken(f"{names} are convicted of what {bad} did")

    # ------------------------------------------------------------ deliveries

    def delivered(self, c: m.Deliver) -> None:
        if self.tasks[c.task].settled != "loaded" or self._content[c.task] != c.batch:
            raise Broken(f"{c} is not what was loaded")

    def raised(self, c: m.DeliverError) -> None:
        if self.tasks[c.task].settled != "raised":
            raise Broken(f"{c}, and it was {self.tasks[c.task].settled}")
