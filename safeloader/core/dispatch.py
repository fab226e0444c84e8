"""What is in flight: tasks go out to the processes, acknowledgements come back.

A channel is a queue, so a process answers in the order it was asked: an answer that is not about the oldest message in
flight is stale, and dropped. What comes from a process that is off the books is dropped, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.records import (
    ProcessRecord,
    ProcessState,
    Resume,
    Task,
    TaskState,
    Work,
    WorkerRecord,
)
from safeloader.core.restoring import marked

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from safeloader.core.books import Books
    from safeloader.core.deadlines import DeadlineWatch
    from safeloader.core.quarantine import Quarantine
    from safeloader.core.restoring import Returning
    from safeloader.core.schedule import Schedule
    from safeloader.core.shadows import Shadows

__all__ = ["Dispatch"]

_READY, _SENT = ProcessState.READY, TaskState.SENT  # looked up for every batch


class Dispatch:
    """Sends what waits, and takes what is finished."""

    def __init__(
        self,
        books: Books,
        shadows: Shadows,
        returning: Returning,
        schedule: Schedule,
        watch: DeadlineWatch,
        quarantine: Quarantine,
    ) -> None:
        self._books = books
        self._shadows = shadows
        self._returning = returning
        self._schedule = schedule
        self._watch = watch
        self._quarantine = quarantine
        self._logs = books.settings.stateful and books.settings.indexed

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.TaskPlanned: self._task_planned,
            m.ProcessReady: self._process_ready,
            m.WorkerReady: self._worker_ready,
            m.WorkerDiverged: self._worker_diverged,
            m.WorkerResumed: self._worker_resumed,
            m.TaskLoaded: self._task_loaded,
            m.TaskRaised: self._task_raised,
            m.TaskCancelled: self._task_passed,
            m.WorkerEnded: self._worker_ended,
            m.ProbeFinished: self._probe_finished,
        }

    # ------------------------------------------------------------ out

    def _task_planned(self, event: m.TaskPlanned) -> None:
        worker = self._schedule.plan(event.indices)
        if worker is not None:
            self.feed(worker)

    def set_up(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        """Let a process make the worker, as it stood last."""
        redo = self._shadows.claim(worker, process)
        self._put(process, Work("setup", worker.id, worker.id, None, self._books.now, redone=redo is not None))
        self._books.emit(self._returning.host(worker, process.id, redo))

    def feed(self, worker: WorkerRecord) -> None:
        """Send what the worker has waiting, if its process takes work."""
        if not worker.host or worker.moving or worker.checking:  # homeless, in the trainer, or not at its place
            return
        process = self._books.processes[worker.host]
        if process.state is not _READY:
            return
        if worker.hunt is not None:
            self._probe(worker, process)
            return
        while worker.waiting:
            self._send_next(worker, process)

    def _send_next(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        item = worker.waiting.popleft()
        worker.sent.append(item)
        if not isinstance(item, Task):
            self._resume(worker, process, item)
            return
        item.state = _SENT
        item.lease = lease = self._books.leases.acquire()
        self._put(process, Work("task", item.id, worker.id, item, self._books.now))
        self._books.emit(m.SendTask(process.id, worker.id, item.id, item.indices, item.skip, lease))

    def load_inline(self, worker: WorkerRecord | None = None) -> None:
        """The consumer waits, and the trainer hosts the worker whose turn it is: do its next thing, now."""
        inline = self._books.processes[m.INLINE]
        if inline.work or not inline.workers:
            return
        worker = worker or self._due_inline()
        if worker is None or worker.checking or not worker.waiting:
            return
        item = worker.waiting.popleft()
        worker.sent.append(item)
        if not isinstance(item, Task):
            self._resume(worker, inline, item)
            return
        item.state = _SENT
        self._put(inline, Work("task", item.id, worker.id, item, self._books.now))
        timeout = self._watch.deadlines.batch(0, worker.position == 0)
        self._books.emit(m.LoadInline(worker.id, item.id, item.indices, item.skip, timeout))

    def _due_inline(self) -> WorkerRecord | None:
        queue, workers = self._schedule.queue, self._books.workers
        candidates = [queue[0]] if self._books.settings.in_order else queue
        waiting = (t for t in candidates if t.state is TaskState.WAITING)
        return next((workers[t.worker] for t in waiting if workers[t.worker].host == m.INLINE), None)

    def _resume(self, worker: WorkerRecord, process: ProcessRecord, item: Resume) -> None:
        self._put(process, Work("resume", worker.id, worker.id, None, self._books.now))
        self._books.emit(m.ResumeWorker(process.id, worker.id, item.epoch))

    def _probe(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        """Send the next part of a suspected batch, if none is on its way."""
        if any(work.kind == "probe" and work.worker == worker.id for work in process.work):
            return
        task, positions = self._quarantine.next_probe(worker)
        self._put(process, Work("probe", task.id, worker.id, task, self._books.now))
        self._books.emit(m.SendProbe(process.id, worker.id, task.id, task.indices, positions))

    def _put(self, process: ProcessRecord, work: Work) -> None:
        process.work.append(work)
        if len(process.work) == 1:
            self._watch.arm(process)

    # ------------------------------------------------------------ back

    def _finish(
        self, number: int, kind: Literal["setup", "resume", "task", "probe"], about: int, finished_at: float
    ) -> Work | None:
        """Take the oldest message in flight off the books; None if that is not what this is about."""
        process = self._books.processes.get(number)
        if process is not None and process.work:
            head = process.work[0]
            if head.about == about and head.kind == kind:
                process.work.popleft()
                process.since = finished_at
                if process.state is ProcessState.CAPTURING:
                    self._watch.acquit(process)
                self._watch.arm(process)
                return head
        return None

    def _process_ready(self, event: m.ProcessReady) -> None:
        process = self._books.processes.get(event.process)
        if process is None:
            return
        late = process.state is ProcessState.CAPTURING and process.cause == "failed_start"
        if process.state is not ProcessState.STARTING and not late:
            return
        self._watch.ready(process, event.at)
        self._furnish(process)
        self._books.unbalanced = True

    def _furnish(self, process: ProcessRecord) -> None:
        """Set up the workers of a new process and send what waits, in the order in which the batches are due."""
        to_set_up = [self._books.workers[i] for i in sorted(process.workers)]
        eager = [worker for worker in to_set_up if worker.waiting and worker.hunt is None]
        while eager:
            worker = min(eager, key=_next_number)
            if worker in to_set_up:
                to_set_up.remove(worker)
                self.set_up(worker, process)
            if not worker.checking:
                self._send_next(worker, process)
            eager = [worker for worker in eager if worker.waiting and not worker.checking]
        for worker in to_set_up:
            self.set_up(worker, process)

    def _worker_ready(self, event: m.WorkerReady) -> None:
        work = self._finish(event.process, "setup", event.worker, event.finished_at)
        if work is None:
            return
        worker = self._books.workers[work.worker]
        if event.begin is not None:
            worker.epoch_snapshot = event.begin
        if event.snapshot is not None:
            worker.snapshot = event.snapshot
        self._books.proven = self._books.proven or event.process != m.INLINE
        self._returning.arrived(worker, event.compared, work.redone)
        self.feed(worker)
        self._books.progressed = worker

    def _worker_diverged(self, event: m.WorkerDiverged) -> None:
        work = self._finish(event.process, "setup", event.worker, event.finished_at)
        if work is None:
            return
        worker = self._books.workers[work.worker]
        self._books.proven = self._books.proven or event.process != m.INLINE
        if self._returning.missed(worker, event, work.redone):
            self._refresh(worker)
            self._books.progressed = worker

    def _worker_resumed(self, event: m.WorkerResumed) -> None:
        work = self._finish(event.process, "resume", event.worker, event.finished_at)
        if work is None:
            return
        worker = self._books.workers[work.worker]
        resume = worker.sent.popleft()
        assert isinstance(resume, Resume)
        worker.epoch, worker.position, worker.exhausted = resume.epoch, 0, False
        worker.epoch_snapshot = worker.snapshot
        if event.snapshot is not None:
            worker.snapshot = event.snapshot
        worker.got, worker.got_snapshot, worker.got_end = 0, worker.snapshot, False
        worker.marks.clear()
        worker.log.clear()
        self._shadows.log(worker, resume.epoch)
        self._returning.begin(worker)
        if event.content is not None:
            marked(worker, event.content)
            worker.first = worker.marks[-1]
        self._books.progressed = worker

    def _finish_task(self, event: m.TaskLoaded | m.TaskRaised | m.WorkerEnded) -> tuple[Task, WorkerRecord] | None:
        work = self._finish(event.process, "task", event.task, event.finished_at)
        if work is None or work.task is None:
            return None
        worker = self._books.workers[work.worker]
        worker.sent.popleft()
        if worker.setup_failures:
            worker.setup_failures = worker.setup_hangs = 0
            self._watch.arm(self._books.processes[event.process])
        if event.snapshot is not None:
            worker.snapshot = event.snapshot
        if not isinstance(event, m.WorkerEnded):
            worker.digests += event.digest
        if self._shadows.behind:
            self._shadows.log(worker, work.task, b"" if isinstance(event, m.WorkerEnded) else event.digest)
        self._books.faults.row = 0
        return work.task, worker

    def _task_loaded(self, event: m.TaskLoaded) -> None:
        finished = self._finish_task(event)
        if finished is None:
            return
        task, worker = finished
        worker.position += 1
        task.place, task.snapshot = worker.position, worker.snapshot
        if self._logs:
            worker.log.append((task.indices, task.skip))
        if self._watch.deadlines.learns:
            self._watch.learn(event, worker)
        if event.nbytes == 0 or event.batch is None:
            self._schedule.free_lease(task)
        if event.dropped and not task.abandoned:
            self._report_dropped(task, event.dropped)
        result = None if event.batch is None else m.Deliver(task.id, event.batch, task.lease)
        self._schedule.settle(task, result)
        self._books.progressed = worker

    def _report_dropped(self, task: Task, dropped: tuple[tuple[int, str], ...]) -> None:
        for position, why in dropped:
            self._books.emit(m.ReportSkipped(task.id, task.epoch, task.batch, task.names((position,)), why))

    def _task_raised(self, event: m.TaskRaised) -> None:
        finished = self._finish_task(event)
        if finished is None:
            return
        task, worker = finished
        worker.position += 1
        task.place, task.snapshot = worker.position, worker.snapshot
        if self._logs:
            worker.log.append((task.indices, task.skip))
        self._schedule.free_lease(task)
        if not task.abandoned:
            self._books.report(event.cause, "", event.process, task, sample=event.sample, action="raised")
        self._schedule.settle(task, m.DeliverError(task.id, worker.id, event.error))
        self._books.progressed = worker

    def _task_passed(self, event: m.TaskCancelled) -> None:
        work = self._finish(event.process, "task", event.task, event.finished_at)
        if work is None or work.task is None:
            return
        worker = self._books.workers[work.worker]
        worker.sent.popleft()
        self._schedule.settle(work.task, None)
        self._books.progressed = worker

    def _worker_ended(self, event: m.WorkerEnded) -> None:
        finished = self._finish_task(event)
        if finished is None:
            return
        task, worker = finished
        task.place, task.snapshot, task.last = worker.position, worker.snapshot, True
        worker.exhausted = True
        if not task.abandoned:
            self._schedule.worker_ended(worker)
        self._schedule.free_lease(task)
        self._schedule.settle(task, None)
        self._books.progressed = worker

    def _probe_finished(self, event: m.ProbeFinished) -> None:
        work = self._finish(event.process, "probe", event.task, event.finished_at)
        if work is None:
            return
        worker = self._books.workers[work.worker]
        if self._quarantine.probe_survived(worker):
            self._refresh(worker)
        self.feed(worker)
        self._books.progressed = worker

    def _refresh(self, worker: WorkerRecord) -> None:
        """Set a worker up again where it is: its copy there has seen what the stream must not know of. Where a shadow
        has what it was before, that is to be used: it makes another process."""
        process = self._books.processes[worker.host] if worker.host is not None else None
        if process is not None and self._shadows.holds(worker, process):
            self._watch.replace(process)
        elif process is not None and process.state is ProcessState.READY:
            self._books.emit(m.DropWorker(process.id, worker.id))
            self.set_up(worker, process)


def _next_number(worker: WorkerRecord) -> float:
    item = worker.waiting[0]
    return item.id if isinstance(item, Task) else item.before - 0.5
