"""What processes answer: a worker is set up, a task is finished, a probe did no harm.

A process answers in the order it was asked: an answer that is not about the oldest message in flight is stale, and
dropped. What comes from a process that is off the books is dropped, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core import new_copy
from safeloader.core.records import ProcessState, Resume, Rewind, Task, Work, WorkerRecord
from safeloader.core.restoring import marked
from safeloader.core.state import Redo

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from safeloader.core.books import Books
    from safeloader.core.deadlines import DeadlineWatch
    from safeloader.core.dispatch import Dispatch
    from safeloader.core.quarantine import Quarantine
    from safeloader.core.restoring import Returning
    from safeloader.core.schedule import Schedule
    from safeloader.core.shadows import Shadows

__all__ = ["Answers"]


class Answers:
    """Takes what is finished."""

    def __init__(
        self,
        books: Books,
        shadows: Shadows,
        returning: Returning,
        schedule: Schedule,
        watch: DeadlineWatch,
        quarantine: Quarantine,
        dispatch: Dispatch,
    ) -> None:
        self._books = books
        self._shadows = shadows
        self._returning = returning
        self._schedule = schedule
        self._watch = watch
        self._quarantine = quarantine
        self._dispatch = dispatch
        self._logs = books.settings.stateful and books.settings.indexed

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.ProcessReady: self._process_ready,
            m.WorkerReady: self._worker_ready,
            m.WorkerDiverged: self._worker_diverged,
            m.WorkerResumed: self._worker_resumed,
            m.WorkerChanged: self._returning.changed,
            m.WorkerUnchanged: self._returning.unchanged,
            m.TaskLoaded: self._task_loaded,
            m.TaskRaised: self._task_raised,
            m.TaskCancelled: self._task_passed,
            m.WorkerEnded: self._worker_ended,
            m.ProbeFinished: self._probe_finished,
        }

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
                    self._watch.clear_suspicion(process)
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
        if event.fell_back:
            process.fell_back = self._books.fell_back = True
        self._watch.ready(process, event.at)
        self._dispatch.furnish(process)
        self._books.unbalanced = True

    def _worker_ready(self, event: m.WorkerReady) -> None:
        work = self._finish(event.process, "setup", event.worker, event.finished_at)
        if work is None:
            return
        worker = self._books.workers[work.worker]
        if event.begin is not None:
            new_copy.born(worker, event.begin)
        if event.snapshot is not None:
            worker.snapshot = event.snapshot
        self._books.proven = self._books.proven or event.process != m.INLINE
        self._returning.arrived(worker, event.compared, work.redone)
        self._dispatch.feed(worker)
        self._books.progressed = worker

    def _worker_diverged(self, event: m.WorkerDiverged) -> None:
        work = self._finish(event.process, "setup", event.worker, event.finished_at)
        if work is None:
            return
        worker = self._books.workers[work.worker]
        self._books.proven = self._books.proven or event.process != m.INLINE
        if self._returning.missed(worker, event, work.redone):
            self._dispatch.refresh(worker)
            self._books.progressed = worker

    def _worker_resumed(self, event: m.WorkerResumed) -> None:
        work = self._finish(event.process, "resume", event.worker, event.finished_at)
        if work is None:
            return
        worker = self._books.workers[work.worker]
        resume = worker.sent.popleft()
        if isinstance(resume, Rewind):
            worker.position, worker.snapshot = resume.to
            self._log(worker, Redo(None, back=resume.to))
            self._books.progressed = worker
            return
        assert isinstance(resume, Resume)
        worker.epoch, worker.position, worker.exhausted = resume.epoch, 0, False
        worker.epoch_snapshot = worker.snapshot
        if event.snapshot is not None:
            worker.snapshot = event.snapshot
        worker.got, worker.got_snapshot, worker.got_end = 0, worker.snapshot, False
        worker.marks.clear()
        worker.log.clear()
        self._log(worker, Redo(resume.epoch))
        self._returning.begin(worker)
        if event.content is not None:
            marked(worker, event.content)
            worker.first = worker.marks[-1]
        self._books.progressed = worker

    def _log(self, worker: WorkerRecord, done: Redo, seconds: float = 0.0) -> None:
        new_copy.log(worker, done, seconds)
        if self._shadows.behind:
            self._shadows.log(worker, done)

    def _finish_task(self, event: m.TaskLoaded | m.TaskRaised | m.WorkerEnded) -> tuple[Task, WorkerRecord] | None:
        work = self._finish(event.process, "task", event.task, event.finished_at)
        if work is None or work.task is None:
            return None
        worker = self._books.workers[work.worker]
        worker.sent.popleft()
        if worker.setup_failures:
            worker.setup_failures = worker.setup_hangs = 0
            self._watch.arm(self._books.processes[event.process])
        before = worker.snapshot
        if event.snapshot is not None:
            worker.snapshot = event.snapshot
        task, digest = work.task, b""
        if not isinstance(event, m.WorkerEnded):
            digest = event.digest
            worker.digests += digest
            worker.position += 1
            if self._logs:
                worker.log.append((task.indices, task.skip))
        task.place, task.before, task.snapshot = worker.position, before, worker.snapshot
        if worker.done is not None or worker.unchanged or self._shadows.behind:
            seconds = event.finished_at - event.taken_at if isinstance(event, m.TaskLoaded) else 0.0
            skip = () if task.case is None else task.case.skip
            self._log(worker, Redo(None, task.indices, skip, digest), seconds)
        self._books.faults.row = 0
        return task, worker

    def _task_loaded(self, event: m.TaskLoaded) -> None:
        finished = self._finish_task(event)
        if finished is None:
            return
        task, worker = finished
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
        self._schedule.free_lease(task)
        if not task.abandoned:
            self._books.report(event.cause, event.detail, event.process, task, sample=event.sample, action="raised")
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
        task.last = worker.exhausted = True
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
            self._dispatch.refresh(worker)
        self._dispatch.feed(worker)
        self._books.progressed = worker
