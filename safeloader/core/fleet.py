"""Which process hosts which worker, what is in flight to it, and how many processes there are.

The number of processes is a rung of the ladder. A worker can be moved whenever nothing of it is in flight: its
generators go with it, so the batches do not change by a byte. At rung 0 the trainer hosts the workers (process
``INLINE``), except those that have to load something that hurt a process before: for them one process stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import messages as m
from .policy import Deadlines, RestartWindow, ladder
from .records import Process, ProcessState, Resume, Task, TaskState, Work, Worker
from .recovery import Recovery
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .supervisor import Supervisor

__all__ = ["Fleet"]


class Fleet:
    """The processes and what they host."""

    def __init__(self, supervisor: Supervisor) -> None:
        settings = supervisor.settings
        self._sup = supervisor
        top = settings.num_workers
        if settings.max_processes is not None:
            top = min(top, settings.max_processes)
        self.rungs = ladder(top, settings.fallback)
        self.rung = top
        self.window = RestartWindow(settings.max_restarts, settings.restart_period)
        self.deadlines = Deadlines(settings.batch_timeout, settings.startup_timeout)
        self.processes: dict[int, Process] = {m.INLINE: Process(m.INLINE, ProcessState.READY)}
        self._next_process = m.INLINE + 1
        self._good = 0
        self.watch = Watch(supervisor, self)
        self.recovery = Recovery(supervisor, self)

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.ProcessReady: self._process_ready,
            m.WorkerReady: self._worker_ready,
            m.WorkerResumed: self._worker_resumed,
            **self.watch.handlers(),
            **self.recovery.handlers(),
        }

    def next_deadline(self) -> float:
        return min(p.deadline for p in self.processes.values())

    # ------------------------------------------------------------ how many

    def open(self) -> None:
        self.balance()

    def processes_alive(self) -> list[Process]:
        return [p for p in self.processes.values() if p.id != m.INLINE and p.alive and not p.retiring]

    def dying(self) -> bool:
        return any(p.state in (ProcessState.CAPTURING, ProcessState.KILLING) for p in self.processes.values())

    def _wanted(self) -> int:
        escort = self.rung == 0 and any(w.tainted for w in self._sup.workers)
        return 1 if escort else self.rung

    def balance(self) -> None:
        """Make the processes as many as the rung says, and give every homeless worker a home."""
        if self._sup.closed:
            return
        wanted = self._wanted()
        alive = self.processes_alive()
        for _ in range(wanted - len(alive)):
            self._start()
        for process in sorted(alive, key=lambda p: (len(p.workers), -p.id))[: max(len(alive) - wanted, 0)]:
            self._retire(process)
        for worker in self._sup.workers:
            if worker.host is None:
                self._place(worker)
        self._spread()

    def _start(self) -> None:
        process = Process(self._next_process)
        self._next_process += 1
        process.deadline = self._sup.now + self.deadlines.startup(0)
        self.processes[process.id] = process
        self._sup.emit(m.StartProcess(process.id))

    def _retire(self, process: Process) -> None:
        process.retiring = True
        for worker in [self._sup.workers[i] for i in sorted(process.workers)]:
            worker.moving = True
            self._move_if_drained(worker)
        self._stop_if_empty(process)

    def _stop_if_empty(self, process: Process) -> None:
        if process.retiring and not process.workers and not process.work and process.alive:
            self.stop(process)

    def stop(self, process: Process) -> None:
        process.state = ProcessState.STOPPING
        process.deadline = self._sup.now + self._sup.settings.stop_timeout
        self._sup.emit(m.StopProcess(process.id))

    def stop_all(self) -> None:
        for process in self.processes.values():
            if process.id != m.INLINE and process.alive:
                self.stop(process)

    def lower(self, why: str) -> bool:
        """One rung down the ladder. False if there is none."""
        below = [r for r in self.rungs if r < self.rung]
        if not below:
            return False
        self._change_rung(below[0], why)
        return True

    def good_batch(self) -> None:
        """Count a delivered batch; enough of them lead one rung up."""
        if self.rung == self.rungs[0]:
            return
        self._good += 1
        if self._good >= self._sup.settings.recover_after:
            above = [r for r in self.rungs if r > self.rung]
            self._change_rung(above[-1], f"{self._good} good batches")
            self.balance()

    def _change_rung(self, rung: int, why: str) -> None:
        self._good = 0
        old, self.rung = self.rung, rung
        self._sup.emit(m.ReportRung(old, rung, why))

    # ------------------------------------------------------------ who hosts whom

    def _place(self, worker: Worker) -> None:
        hosts = self.processes_alive()
        if self.rung == 0 and not worker.tainted:
            process = self.processes[m.INLINE]
        else:
            process = min(hosts, key=lambda p: (len(p.workers), p.id))
        worker.host, worker.moving = process.id, False
        process.workers.add(worker.id)
        if process.state is ProcessState.READY:
            self._set_up(worker, process)
            self.feed(worker)

    def _set_up(self, worker: Worker, process: Process) -> None:
        worker.generation += 1
        self._put(process, Work("setup", worker.id, None, self._sup.now))
        self._sup.emit(
            m.HostWorker(
                process.id, worker.id, worker.epoch, worker.position, worker.exhausted,
                worker.epoch_snapshot, worker.snapshot,
            )
        )  # fmt: skip

    def refresh(self, worker: Worker) -> None:
        """Set a worker up again where it is: its copy there has seen what the stream must not know of."""
        if worker.host is None or worker.host == m.INLINE:
            return
        process = self.processes[worker.host]
        if process.state is ProcessState.READY:
            self._sup.emit(m.DropWorker(process.id, worker.id))
            self._set_up(worker, process)

    def _spread(self) -> None:
        """Let workers move so that no process hosts two more than another; at rung 0, home to the trainer."""
        ready = [p for p in self.processes_alive() if p.state is ProcessState.READY]
        if self.rung > 0:
            ready += [self.processes[m.INLINE]] if self.processes[m.INLINE].workers else []
        if len(ready) < 2:
            return
        staying = {p.id: [i for i in sorted(p.workers) if not self._sup.workers[i].moving] for p in ready}
        hosts = [p.id for p in ready if p.id != m.INLINE]
        movers = staying.pop(m.INLINE, [])
        while hosts:
            most, least = max(hosts, key=lambda p: len(staying[p])), min(hosts, key=lambda p: len(staying[p]))
            if len(staying[most]) - len(staying[least]) < 2:
                break
            mover = staying[most].pop()
            staying[least].append(-1)
            movers.append(mover)
        for worker in [self._sup.workers[i] for i in movers]:
            worker.moving = True
            self._move_if_drained(worker)

    def _move_if_drained(self, worker: Worker) -> None:
        if not worker.moving or worker.sent or worker.hunt is not None or worker.host is None:
            return
        process = self.processes[worker.host]
        if any(w.worker == worker.id for w in process.work):
            return
        if process.state is ProcessState.READY:
            self._sup.emit(m.DropWorker(process.id, worker.id))
        process.workers.discard(worker.id)
        worker.host = None
        self._place_or_balance(worker)
        self._stop_if_empty(process)

    def _place_or_balance(self, worker: Worker) -> None:
        if self.processes_alive() or (self.rung == 0 and not worker.tainted):
            self._place(worker)
        else:
            self.balance()

    # ------------------------------------------------------------ feeding

    def feed_all(self) -> None:
        for worker in self._sup.workers:
            self.feed(worker)

    def feed(self, worker: Worker) -> None:
        """Send what the worker has waiting, if its process takes work."""
        if worker.host is None or worker.host == m.INLINE or worker.moving:
            return
        process = self.processes[worker.host]
        if process.state is not ProcessState.READY:
            return
        if worker.hunt is not None:
            self.recovery.probe(worker, process)
            return
        while worker.waiting:
            self._send(worker, process)

    def _send(self, worker: Worker, process: Process) -> None:
        item = worker.waiting.popleft()
        worker.sent.append(item)
        if isinstance(item, Resume):
            self._put(process, Work("resume", worker.id, None, self._sup.now))
            self._sup.emit(m.ResumeWorker(process.id, worker.id, item.epoch))
            return
        item.state = TaskState.SENT
        item.lease = self._sup.leases.acquire()
        self._put(process, Work("task", worker.id, item, self._sup.now))
        self._sup.emit(m.SendTask(process.id, worker.id, item.id, item.indices, item.skip, item.lease))

    def load_inline(self, due: Task | None) -> None:
        """At rung 0: let the trainer do the next thing that the due batch's worker has to do."""
        if due is None:
            return
        worker = self._sup.workers[due.worker]
        if worker.host != m.INLINE or worker.sent:
            return
        item = worker.waiting.popleft()
        worker.sent.append(item)
        if isinstance(item, Resume):
            self._put(self.processes[m.INLINE], Work("resume", worker.id, None, self._sup.now))
            self._sup.emit(m.ResumeWorker(m.INLINE, worker.id, item.epoch))
            return
        item.state = TaskState.SENT
        self._put(self.processes[m.INLINE], Work("task", worker.id, item, self._sup.now))
        timeout = self.deadlines.batch(0, first=worker.position == 0)
        self._sup.emit(m.LoadInline(worker.id, item.id, item.indices, item.skip, timeout))

    def _put(self, process: Process, work: Work) -> None:
        process.work.append(work)
        if len(process.work) == 1:
            self.watch.arm(process, self._sup.now)

    def put_probe(self, process: Process, worker: Worker, task: Task) -> None:
        self._put(process, Work("probe", worker.id, task, self._sup.now))

    # ------------------------------------------------------------ acknowledgements

    def finish(self, number: int, kind: str, about: int, finished_at: float) -> bool:
        """Take the oldest message in flight off the books. False if the process has no such thing to report."""
        process = self.processes.get(number)
        if process is None or not process.work or self._sup.closed:
            return False
        head = process.work[0]
        told = head.task.id if head.task is not None else head.worker
        if head.kind != kind or told != about:
            return False
        process.work.popleft()
        if process.state is ProcessState.CAPTURING:  # a false alarm: it lives
            process.state, process.cause = ProcessState.READY, None
        self.watch.arm(process, finished_at)
        return True

    def progressed(self, worker: Worker) -> None:
        """Something of this worker is finished: it may be free to move; an escort may have done its duty."""
        self._move_if_drained(worker)
        if self.rung == 0 and worker.host not in (None, m.INLINE) and not worker.tainted:
            self.balance()
        if worker.host is not None and worker.host != m.INLINE:
            self._stop_if_empty(self.processes[worker.host])

    def _process_ready(self, event: m.ProcessReady) -> None:
        process = self.processes.get(event.process)
        if process is None or process.state is not ProcessState.STARTING or self._sup.closed:
            return
        process.state, process.deadline = ProcessState.READY, float("inf")
        hosted = [self._sup.workers[i] for i in sorted(process.workers)]
        for worker in hosted:
            self._set_up(worker, process)
        for worker in sorted(hosted, key=_next_number):
            self.feed(worker)
        if not self._sup.closed:
            self._spread()

    def _worker_ready(self, event: m.WorkerReady) -> None:
        if self.finish(event.process, "setup", event.worker, event.finished_at):
            worker = self._sup.workers[event.worker]
            worker.setup_hurt = 0
            self.progressed(worker)
            self._sup.advance()

    def _worker_resumed(self, event: m.WorkerResumed) -> None:
        if self.finish(event.process, "resume", event.worker, event.finished_at):
            worker = self._sup.workers[event.worker]
            resume = worker.sent.popleft()
            assert isinstance(resume, Resume)
            worker.epoch, worker.position, worker.exhausted = resume.epoch, 0, False
            worker.epoch_snapshot = worker.snapshot
            self.progressed(worker)
            self._sup.advance()

    # ------------------------------------------------------------ invariants, for tests

    def validate(self) -> None:
        for worker in self._sup.workers:
            homes = [p.id for p in self.processes.values() if worker.id in p.workers]
            assert len(homes) <= 1, f"worker {worker.id} has several homes"
            assert worker.host is None or homes == [worker.host], f"worker {worker.id} is not at home"
            if not self._sup.closed and self._sup.epoch >= 0:
                assert worker.host is not None, f"worker {worker.id} is homeless"
        for process in self.processes.values():
            for work in process.work:
                assert work.worker in process.workers, "work is in flight for a worker that lives elsewhere"
                if work.kind == "task" and process.id == m.INLINE:
                    assert work.task is not None and not work.task.tainted, "what kills is loaded in the trainer"
        for worker in self._sup.workers:
            in_flight = sum(
                w.worker == worker.id and w.kind in ("task", "resume") for p in self.processes.values() for w in p.work
            )
            assert in_flight == len(worker.sent), f"worker {worker.id}: {in_flight} in flight, {len(worker.sent)} sent"


def _next_number(worker: Worker) -> float:
    if not worker.waiting:
        return float("inf")
    item = worker.waiting[0]
    return item.before - 0.5 if isinstance(item, Resume) else item.id
