"""What follows a fault: the books are put right, blame is laid, policy decides by cause.

A process that is gone gives back its leases (retired if it could not be killed), its lost tasks go to the front of
their workers' queues in the old order, and its workers go to a new process or to the others. A task that was in work is
hurtful; one that hurts too often is judged: the sample that was in work each time is bad, or a hunt finds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import messages as m
from .hunt import Hunt
from .records import Process, ProcessState, Task, TaskState, Work, Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .fleet import Fleet
    from .supervisor import Supervisor

__all__ = ["Recovery"]


class Recovery:
    """Turns faults into new work."""

    def __init__(self, supervisor: Supervisor, fleet: Fleet) -> None:
        self._sup = supervisor
        self._fleet = fleet

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.ProcessExited: self._process_exited,
            m.StartRefused: self._start_refused,
            m.InlineInterrupted: self._inline_interrupted,
            m.ProbeFinished: self._probe_finished,
        }

    def _start_refused(self, event: m.StartRefused) -> None:
        if event.process in self._fleet.processes and not self._sup.closed:
            self._sup.give_up("refused", event.error, "")

    def _process_exited(self, event: m.ProcessExited) -> None:
        process = self._fleet.processes.get(event.process)
        if process is not None and process.id != m.INLINE:
            self.lose(process, event)

    # ------------------------------------------------------------ a process is gone

    def lose(self, process: Process, event: m.ProcessExited | None) -> None:
        """Take a process off the books; ``event`` is None if it could not be killed and is abandoned."""
        del self._fleet.processes[process.id]
        expected = process.state is ProcessState.STOPPING or self._sup.closed
        probing = bool(process.work) and process.work[0].kind == "probe"
        cause = self._cause(process, event)
        task, setup, sample = self._in_work(process, event)
        for worker in [self._sup.workers[i] for i in sorted(process.workers)]:
            self._take_back(worker, abandoned=event is None)
        if expected and process.cause is None:
            if not self._sup.closed:
                self._fleet.balance()
            return
        if setup is not None:
            self._sup.workers[setup].setup_hurt += 1
        if task is not None and not probing:
            task.attempts += 1
        self._tell(process, event, cause, task, setup, sample)
        if self._sup.closed:
            return
        if probing and task is not None:
            self._probe_died(self._sup.workers[task.worker])
        else:
            self._count(cause, event is not None and event.memory_short)
            if task is not None:
                self._blame(task, cause, sample, process.stack or (event.stack if event else None))
        if not self._sup.closed:
            self._fleet.balance()
            self._sup.advance()

    @staticmethod
    def _cause(process: Process, event: m.ProcessExited | None) -> str:
        if process.cause is not None:
            return process.cause
        if event is not None and event.memory_short:
            return "oom"
        return "failed_start" if process.state is ProcessState.STARTING else "died"

    def _in_work(
        self, process: Process, event: m.ProcessExited | None
    ) -> tuple[Task | None, int | None, int | None]:
        """What the process worked on, by its own progress page: only that can be to blame."""
        number, setup, sample = process.task, process.setup, process.sample
        if event is not None and process.cause is None:
            number, setup, sample = event.task, event.setup, event.sample
        head = process.work[0] if process.work else None
        if head is None:
            return None, None, None
        if head.task is not None and head.task.id == number:
            return head.task, None, sample
        if head.kind in ("setup", "resume") and setup == head.worker:
            return None, head.worker, None
        return None, None, None

    def _take_back(self, worker: Worker, abandoned: bool) -> None:
        for item in reversed(worker.sent):
            if isinstance(item, Task):
                if item.lease is not None:
                    if abandoned:
                        self._sup.leases.retire(item.lease)
                    else:
                        self._sup.give_back(item.lease)
                    item.lease = None
                item.state = TaskState.WAITING
            worker.waiting.appendleft(item)
        worker.sent.clear()
        worker.host, worker.moving = None, False

    def _tell(
        self,
        process: Process,
        event: m.ProcessExited | None,
        cause: str,
        task: Task | None,
        setup: int | None,
        sample: int | None,
    ) -> None:
        workers = sorted(process.workers)
        worker = task.worker if task else setup if setup is not None else (workers[0] if len(workers) == 1 else None)
        self._sup.report(
            cause,
            event.detail if event else "could not be killed",
            process.id,
            task,
            worker=worker,
            sample=sample,
            stack=process.stack or (event.stack if event else None),
            stalled=process.stalled,
            action="restarted" if event else "abandoned",
        )

    def _count(self, cause: str, memory_short: bool) -> None:
        """Too many faults in too short a time, or too little memory: fewer processes."""
        too_many = self._fleet.window.add(self._sup.now)
        why = "memory is short" if memory_short else "too many faults"
        if (too_many or memory_short) and not self._fleet.lower(why) and too_many:
            self._sup.give_up("restarts", None, cause)

    # ------------------------------------------------------------ blame

    def _blame(self, task: Task, cause: str, sample: int | None, stack: str | None) -> None:
        task.same_sample = task.hurt == 0 or (task.same_sample and task.last_sample == sample)
        task.hurt += 1
        task.last_cause, task.last_sample, task.stack = cause, sample, stack or task.stack
        if task.abandoned:  # nobody wants it: it shall hurt nobody twice
            self._remove(task)
            self._sup.settle(task, TaskState.EMPTY)
        elif task.hurt > self._sup.settings.bad_sample_attempts and not self._sup.closed:
            self._judge(task)

    def _judge(self, task: Task) -> None:
        settings = self._sup.settings
        left = self._positions(task)
        if not settings.indexed:
            self._fail(task, ())
        elif not settings.batched or len(left) == 1:
            self._condemn(task, left)
        elif task.same_sample and task.last_sample in left:
            self._condemn(task, (task.last_sample,))  # type: ignore[arg-type]
        else:
            self._sup.workers[task.worker].hunt = Hunt(left)

    def _positions(self, task: Task) -> tuple[int, ...]:
        try:
            count = len(task.indices) if self._sup.settings.batched else 1  # type: ignore[arg-type]
        except TypeError:
            count = 1
        return tuple(i for i in range(count) if i not in task.skip)

    def _condemn(self, task: Task, positions: tuple[int, ...]) -> None:
        if self._sup.settings.on_bad_sample != "skip":
            self._fail(task, positions)
            return
        task.skip = tuple(sorted((*task.skip, *positions)))
        task.hurt = 0
        names = self._names(task, positions)
        self._sup.emit(m.ReportSkipped(task.id, task.epoch, task.batch, names, task.last_cause))
        if not self._positions(task):
            self._remove(task)
            self._sup.settle(task, TaskState.EMPTY)

    def _fail(self, task: Task, positions: tuple[int, ...]) -> None:
        task.outcome = m.DeliverBadSample(
            task.id, task.worker, task.epoch, task.batch, self._names(task, positions), task.last_cause,
            task.attempts, task.stack,
        )  # fmt: skip
        self._remove(task)
        if not self._sup.settings.indexed:  # its iterator cannot get past this point
            worker = self._sup.workers[task.worker]
            worker.ended = worker.exhausted = True
        self._sup.settle(task, TaskState.FAILED)

    def _remove(self, task: Task) -> None:
        self._sup.workers[task.worker].waiting.remove(task)

    def _names(self, task: Task, positions: tuple[int, ...]) -> tuple[object, ...]:
        from .supervisor import sample_of

        return tuple(sample_of(task, p) for p in positions)

    # ------------------------------------------------------------ the hunt

    def probe(self, worker: Worker, process: Process) -> None:
        """Send the next probe, if none is on its way."""
        if worker.hunt is None or any(w.worker == worker.id for w in process.work if w.kind == "probe"):
            return
        task = worker.waiting[0]
        assert isinstance(task, Task)
        self._fleet.put_probe(process, worker, task)
        self._sup.emit(m.SendProbe(process.id, worker.id, task.id, task.indices, worker.hunt.probe()))

    def _probe_finished(self, event: m.ProbeFinished) -> None:
        if not self._fleet.finish(event.process, "probe", event.task, event.finished_at):
            self._sup.stale += 1
            return
        worker = self._sup.workers[self._sup.tasks[event.task].worker]
        assert worker.hunt is not None
        worker.hunt.survived()
        if not self._judged(worker):
            self._fleet.feed(worker)
            return
        self._fleet.refresh(worker)
        self._fleet.feed(worker)
        self._fleet.progressed(worker)

    def _probe_died(self, worker: Worker) -> None:
        if worker.hunt is not None:
            worker.hunt.died()
            self._judged(worker)

    def _judged(self, worker: Worker) -> bool:
        """Act on the hunt's verdict. False while there is none."""
        hunt = worker.hunt
        if hunt is None or hunt.verdict is None:
            return False
        worker.hunt = None
        task = worker.waiting[0]
        assert isinstance(task, Task)
        if hunt.verdict:
            self._condemn(task, hunt.verdict)
        elif task.cleared:
            self._condemn(task, hunt.suspects)
        else:  # no part of it did any harm: whatever killed came from outside
            task.cleared, task.hurt = True, 0
        return True

    # ------------------------------------------------------------ in the trainer

    def _inline_interrupted(self, event: m.InlineInterrupted) -> None:
        inline = self._fleet.processes[m.INLINE]
        head: Work | None = inline.work[0] if inline.work else None
        if head is None or head.task is None or head.task.id != event.task:
            return
        inline.work.popleft()
        worker, task = self._sup.workers[head.worker], head.task
        inline.workers.discard(worker.id)
        self._take_back(worker, abandoned=False)
        self._sup.emit(m.DropWorker(m.INLINE, worker.id))
        task.attempts += 1
        self._sup.report(
            "hung", "interrupted in the trainer", m.INLINE, task,
            sample=event.sample, stack=event.stack, action="moved to a process",
        )  # fmt: skip
        self._blame(task, "hung", event.sample, event.stack)
        self._fleet.balance()
        self._sup.advance()
