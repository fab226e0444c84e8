"""How many processes there are, and which of them hosts which worker.

The number of processes is a rung of the ladder. A worker can be moved whenever nothing of it is in flight: its
generators go with it, so the batches do not change by a byte. At rung 0 the trainer hosts the workers (process
``INLINE``), except those that have to load something that hurt a process before, or that change what the trainer could
not change back: for them one process stays. If none can be started, what ended one is given up.

At the top rung there may be standbys besides: processes that are ready and host nobody. One of them takes the place of
a process that is lost, and another is started for it. They are started when nobody else is starting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.failback import Failback
from safeloader.core.policy import ladder
from safeloader.core.records import ProcessRecord, ProcessState, Task, Work, WorkerRecord

if TYPE_CHECKING:
    from safeloader.core.books import Books
    from safeloader.core.deadlines import DeadlineWatch
    from safeloader.core.dispatch import Dispatch
    from safeloader.core.shadows import Shadow, Shadows

__all__ = ["Fleet"]


class Fleet:
    """The processes and what they host."""

    def __init__(self, books: Books, shadows: Shadows, watch: DeadlineWatch, dispatch: Dispatch) -> None:
        settings = books.settings
        self._books = books
        self._shadows = shadows
        self._watch = watch
        self._dispatch = dispatch
        top = settings.num_workers
        if settings.max_processes is not None:
            top = min(top, settings.max_processes)
        self.rungs = ladder(top, settings.fallback)
        self.rung = top
        self._next_process = m.INLINE + 1
        self._good = 0
        self._standby = settings.standby  # how many are kept at the top rung
        self.failback = Failback(books)

    @property
    def processes(self) -> dict[int, ProcessRecord]:
        """By their numbers."""
        return self._books.processes

    def next_deadline(self) -> float:
        """The earliest deadline of any process."""
        return min([p.deadline for p in self._books.processes.values()])

    # ------------------------------------------------------------ the ladder

    def lower(self, why: str) -> bool:
        """One rung down the ladder. False if there is none."""
        if self.rung == self.rungs[-1]:
            return False
        self._books.faults.clear()
        self._change_rung(next(rung for rung in self.rungs if rung < self.rung), why)
        return True

    def good_batch(self) -> None:
        """Count a delivered batch; enough of them lead one rung up."""
        if self.rung == self.rungs[0]:
            if self._books.fell_back:
                self._try_failback()
            return
        if self.keeps_what_would_be_lost():
            return
        self._good += 1
        if self._good >= self._books.settings.recover_after:
            above = [rung for rung in self.rungs if rung > self.rung]
            self._change_rung(above[-1], f"{self._good} good batches")
            self.balance()

    def keeps_what_would_be_lost(self) -> bool:
        """True if a worker's dataset has changed itself, which other processes would not know."""
        return any(self._must_stay(worker) for worker in self._books.workers)

    def _keeps_what_would_be_lost(self, process: ProcessRecord) -> bool:
        return any(self._must_stay(self._books.workers[number]) for number in process.workers)

    def _must_stay(self, worker: WorkerRecord) -> bool:
        """True if what a worker's dataset has changed in itself is kept where it is, and nowhere else."""
        if worker.host is None:
            return self._shadows.awaits(worker)
        process = self.processes[worker.host]
        barred = process.id == m.INLINE and worker.needs_process  # from where it is: what it has to do hurt a process
        return not barred and (worker.changed or self._shadows.holds(worker, process))

    def _change_rung(self, rung: int, why: str) -> None:
        self._good, self._books.unbalanced = 0, True
        self.failback.begin()
        old, self.rung = self.rung, rung
        self._books.emit(m.ReportRung(old, rung, why))

    # ------------------------------------------------------------ how many

    def staff(self) -> list[ProcessRecord]:
        """The processes that are given work, now or once they are ready."""
        return [p for p in self.processes.values() if p.alive and not p.retiring and not p.spare and p.id != m.INLINE]

    def dying(self) -> int:
        """How many are condemned, and may still hold memory: none is replaced before its exit is confirmed."""
        return sum(p.condemned and not p.retiring and not p.asked and not p.spare for p in self.processes.values())

    def balance(self) -> None:
        """Make the processes as many as the rung says, give every worker a home, and every home its tasks."""
        self._books.unbalanced = False
        if self._books.closed:
            return
        last_process = self.rung == 0 and not all(self._belongs_inline(worker) for worker in self._books.workers)
        wanted = 1 if last_process else self.rung
        if self._books.fell_back:
            self._use_failback()
        staff = self.staff()
        for _ in range(wanted - len(staff) - self.dying()):
            self._add_process()
        emptiest = sorted(staff, key=lambda p: (self._keeps_what_would_be_lost(p), len(p.workers), -p.id))
        for process in emptiest[: max(len(staff) - wanted, 0)]:
            self._retire(process)
        for worker in sorted(self._books.workers, key=lambda w: not self._shadows.awaits(w)):
            if worker.host is None:
                self._place(worker)
        self._spread()
        for worker in self._books.workers:
            if worker.host is None:
                self._place(worker)
            self._dispatch.feed(worker)
        self._keep_standbys()

    def _add_process(self) -> None:
        """One more process to work: made from the shadow of one that is lost, or a standby, or a new one."""
        shadow = self._shadows.next()
        if shadow is not None:
            self._start(shadow=shadow)
            return
        process = self.standby()
        if process is None:
            self._start()
            return
        process.standby = False
        if process.state is ProcessState.READY:
            self._books.emit(m.InspectProcess(process.id))  # it may have been stopped while it was idle

    def _start(self, standby: bool = False, shadow: Shadow | None = None, failback: bool = False) -> None:
        process = ProcessRecord(self._next_process, standby=standby, failback=failback)
        self._next_process += 1
        self.processes[process.id] = process
        if shadow is not None:
            self._shadows.stand_behind(shadow, process)
        self._watch.started(process)
        self._books.emit(m.StartProcess(process.id, standby, None if shadow is None else shadow.id, failback))

    # ------------------------------------------------------------ back to other hosts

    def _try_failback(self) -> None:
        """After enough good batches, see whether there is room on another host."""
        if not self.keeps_what_would_be_lost() and self.failback.is_due(self.staff()):
            self._start(failback=True)

    def _use_failback(self) -> None:
        """One that is ready takes the place of one that fell back; one that is of no use ends."""
        process = next((p for p in self.processes.values() if p.failback and p.alive), None)
        ready, at_top = process is not None and process.state is ProcessState.READY, self.rung == self.rungs[0]
        if process is None or (at_top and not ready):
            return
        replaceable = [p for p in self.staff() if p.fell_back and not self._keeps_what_would_be_lost(p)]
        if not at_top or not replaceable or process.fell_back:
            self._watch.ask_to_end(process)
            return
        process.failback = False
        self.failback.succeeded()
        old = min(replaceable, key=lambda p: (len(p.workers), -p.id))
        old.replaced = True
        self._retire(old)

    # ------------------------------------------------------------ standbys

    def standby(self) -> ProcessRecord | None:
        """The standby that would take over now, if there is one: one that is ready goes first."""
        standbys = [p for p in self.processes.values() if p.standby and p.alive]
        return min(standbys, key=lambda p: (p.state is not ProcessState.READY, p.id), default=None)

    def _keep_standbys(self) -> None:
        """As many as policy wants, at the top rung only: below it something is wrong, or short."""
        wanted = self._standby if self.rung == self.rungs[0] > 0 else 0
        kept = [p for p in self.processes.values() if p.standby and not p.asked]
        for process in kept[wanted:]:
            if process.alive:
                self._watch.ask_to_end(process)
        if all(p.state is ProcessState.READY for p in self.staff()) and not self.dying():
            for _ in range(wanted - len(kept)):
                self._start(standby=True)

    def standby_lost(self, cause: str) -> None:
        """It hosted nobody, so nobody is harmed. But one that dies again and again, or of memory, is not worth it."""
        if self._books.standby_faults.add(self._books.now) or cause == "oom":
            self._standby = 0

    def _retire(self, process: ProcessRecord) -> None:
        process.retiring = True
        for number in sorted(process.workers):
            self._begin_move(self._books.workers[number])
        self._stop_if_empty(process)

    def _stop_if_empty(self, process: ProcessRecord) -> None:
        if process.retiring and not process.workers and process.alive:
            self._watch.ask_to_end(process)

    def stop_all(self) -> None:
        """Ask all processes to end."""
        for process in self.processes.values():
            if process.id != m.INLINE and process.alive:
                self._watch.ask_to_end(process)

    # ------------------------------------------------------------ who hosts whom

    def _place(self, worker: WorkerRecord) -> None:
        """Give a worker a home, if there is one; else a condemned process will make room soon."""
        if self._belongs_inline(worker):
            process = self.processes[m.INLINE]
        else:
            staff = self.staff()
            if not staff:
                return
            suits, neighbours = self._shadows.suits, self.has_neighbour(worker)
            process = min(
                staff,
                key=lambda p: (
                    not suits(worker, p),
                    neighbours and p.state is not ProcessState.READY,
                    len(p.workers),
                    p.state is not ProcessState.READY,
                    p.id,
                ),
            )
        self._shadows.settled(worker, process)
        worker.host, worker.moving = process.id, False
        process.workers.add(worker.id)
        if process.state is ProcessState.READY:
            self._dispatch.set_up(worker, process)
            self._dispatch.feed(worker)

    def has_neighbour(self, worker: WorkerRecord) -> bool:
        """True if a process that is ready may take a worker in, until the new process is ready and it moves there.

        Not where its dataset may have changed by then, so that it could not move; nor what may have killed its process.
        """
        if not self._books.settings.neighbours or self._books.changing:
            return False
        return worker.is_harmless and any(p.state is ProcessState.READY for p in self.staff())

    def _belongs_inline(self, worker: WorkerRecord) -> bool:
        if self.rung or worker.needs_process:
            return False
        return worker.host == m.INLINE or not self._must_stay(worker)

    def _spread(self) -> None:
        """Let workers move so that no ready process hosts two more than another, and none stays in the trainer."""
        ready = [p for p in self.staff() if p.state is ProcessState.READY]
        upwards = self.rung > 0 and len(ready) > 0
        for worker in [self._books.workers[number] for number in sorted(self.processes[m.INLINE].workers)]:
            if upwards or worker.needs_process:
                self._begin_move(worker)
        if not upwards:
            return
        staying = {p.id: [i for i in sorted(p.workers) if not self._books.workers[i].moving] for p in ready}
        while True:
            fullest = max(staying.values(), key=len)
            emptiest = min(staying.values(), key=len)
            if len(fullest) - len(emptiest) < 2:
                return
            mover = self._mover(fullest)
            if mover is None:
                return
            fullest.remove(mover.id)
            emptiest.append(mover.id)
            self._begin_move(mover)

    def _mover(self, numbers: list[int]) -> WorkerRecord | None:
        """Which of these may move."""
        workers = [self._books.workers[number] for number in reversed(numbers)]
        return next((worker for worker in workers if not self._must_stay(worker)), None)

    def _begin_move(self, worker: WorkerRecord) -> None:
        worker.moving = True
        self._move_if_drained(worker)

    def _move_if_drained(self, worker: WorkerRecord) -> None:
        """Take a worker out of its process once nothing of it is in flight there."""
        if worker.host is None or worker.sent:
            return
        process = self.processes[worker.host]
        if not process.alive or any(work.worker == worker.id for work in process.work):
            return
        leaves = (process.retiring and not process.replaced) or self._belongs_inline(worker)
        if not leaves and self._must_stay(worker):
            worker.moving, self._books.unbalanced = False, True  # its dataset has changed meanwhile
            process.retiring = process.replaced = False
            return
        if process.state is ProcessState.READY:
            self._books.emit(m.DropWorker(process.id, worker.id))
        process.workers.discard(worker.id)
        worker.host = None
        self._shadows.settled(worker, None)
        self._place(worker)
        self._stop_if_empty(process)

    def progressed(self, worker: WorkerRecord) -> None:
        """Something of this worker is finished: it may be free to move; an escort may have done its duty."""
        if worker.moving:
            self._move_if_drained(worker)
        elif self.rung == 0 and worker.host != m.INLINE and self._belongs_inline(worker):
            self._begin_move(worker)
            self._books.unbalanced = True

    # ------------------------------------------------------------ invariants, for tests

    def validate(self) -> None:
        """Raise AssertionError if a worker has no home, or two, or work is where it must not be."""
        homes: dict[int, int] = {}
        in_flight: dict[int, list[Work]] = {}
        for process in self.processes.values():
            for number in process.workers:
                assert homes.setdefault(number, process.id) == process.id, f"worker {number} has two homes"
            for work in process.work:
                assert work.worker in process.workers, f"{work} is in flight for a worker elsewhere"
                assert process.id != m.INLINE or work.task is None or not work.task.quarantined, (
                    f"{work} in the trainer"
                )
                in_flight.setdefault(work.worker, []).append(work)
        for worker in self._books.workers:
            assert worker.host == homes.get(worker.id), f"worker {worker.id} is not at home"
            works = [w.task for w in in_flight.get(worker.id, ()) if w.kind in ("task", "resume")]
            sent = [item if isinstance(item, Task) else None for item in worker.sent]
            assert works == sent, f"worker {worker.id}: in flight {works}, sent {sent}"
        if not self._books.closed and self._books.epoch >= 0:
            staff = len(self.staff())
            assert len(homes) == len(self._books.workers) or self.dying(), "a worker has no process"
            assert staff or self.rung == 0 or self.dying(), "nobody is left to work"
            assert staff <= max(self.rung, 1), "more processes than the rung allows"
        for process in self.processes.values():
            assert not (process.spare and (process.workers or process.work)), "a spare process hosts somebody"
