"""What goes out to the processes: workers to set up, tasks to load, and probes of a suspected batch.

A channel is a queue, so a process answers in the order it was asked: the oldest message in flight is the one that it is
at, and has the deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.records import ProcessRecord, ProcessState, Resume, Rewind, Task, TaskState, Work, WorkerRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.books import Books
    from safeloader.core.deadlines import DeadlineWatch
    from safeloader.core.quarantine import Quarantine
    from safeloader.core.restoring import Returning
    from safeloader.core.schedule import Schedule
    from safeloader.core.shadows import Shadows

__all__ = ["Dispatch"]

_READY, _SENT = ProcessState.READY, TaskState.SENT  # looked up for every batch


class Dispatch:
    """Sends what waits."""

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

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {m.TaskPlanned: self._task_planned}

    def _task_planned(self, event: m.TaskPlanned) -> None:
        worker = self._schedule.plan(event.indices)
        if worker is not None:
            self.feed(worker)

    def set_up(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        """Let a process make the worker, as it stood last."""
        redo = self._shadows.claim(worker, process)
        self._put(process, Work("setup", worker.id, worker.id, None, self._books.now, redone=redo is not None))
        self._books.emit(self._returning.host(worker, process.id, redo))

    def furnish(self, process: ProcessRecord) -> None:
        """Set up the workers of a new process and send what waits, in the order in which the batches are due."""
        to_set_up = [self._books.workers[i] for i in sorted(process.workers)]
        eager = [worker for worker in to_set_up if worker.waiting and worker.search is None]
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

    def refresh(self, worker: WorkerRecord) -> None:
        """Set a worker up again where it is: its copy there has seen what the stream must not know of. Where a shadow
        has what it was before, that is to be used: it makes another process."""
        process = self._books.processes[worker.host] if worker.host is not None else None
        if process is not None and self._shadows.holds(worker, process):
            self._watch.replace(process)
        elif process is not None and process.state is ProcessState.READY:
            self._books.emit(m.DropWorker(process.id, worker.id))
            self.set_up(worker, process)

    def feed(self, worker: WorkerRecord) -> None:
        """Send what the worker has waiting, if its process takes work."""
        if not worker.host or worker.moving or worker.checking:  # no process, the trainer, or not at its place
            return
        process = self._books.processes[worker.host]
        if process.state is not _READY:
            return
        if worker.search is not None:
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
        skip = () if item.case is None else item.case.skip
        self._books.out.append(m.SendTask(process.id, worker.id, item.id, item.indices, skip, lease))

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

    def _resume(self, worker: WorkerRecord, process: ProcessRecord, item: Resume | Rewind) -> None:
        self._put(process, Work("resume", worker.id, worker.id, None, self._books.now))
        if isinstance(item, Rewind):
            self._books.emit(m.RewindWorker(process.id, worker.id, item.to))
        else:
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


def _next_number(worker: WorkerRecord) -> tuple[int, int]:
    item = worker.waiting[0]
    return item.epoch, item.batch if isinstance(item, Task) else -1
