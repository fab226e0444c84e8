"""What an observer may see of a loader, perhaps from another thread: plain values, taken at one moment.

What the driver changes meanwhile may be seen half; a process that is gone by then is a ``KeyError``: look again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from safeloader.core.records import ProcessState, Task, TaskState, WorkerRecord

if TYPE_CHECKING:
    from safeloader.core.books import Books
    from safeloader.core.schedule import Schedule

__all__ = ["TaskView", "View", "WorkerView", "view"]


class TaskView(NamedTuple):
    """A task that is planned and neither delivered nor dropped; ``attempts`` are processes that it hurt so far."""

    id: int
    epoch: int
    batch: int
    worker: int
    indices: object
    attempts: int


class WorkerView(NamedTuple):
    """A worker, the number of the process that hosts it, that one's state, and since when by its own clock reading.

    ``queued`` counts what waits for the worker, or is sent to it.
    """

    id: int
    process: int | None
    state: ProcessState | None
    since: float
    queued: int


class View(NamedTuple):
    """A loader. ``due`` is the next batch that is not loaded yet, ``ready`` how many are loaded and wait."""

    epoch: int
    due: TaskView | None
    ready: int
    workers: tuple[WorkerView, ...]
    tasks: dict[int, TaskView]


def view(books: Books, schedule: Schedule) -> View:
    """Take a look.

    Raises:
        KeyError: a worker's process went meanwhile.
    """
    queue = list(schedule.queue)
    waited_for = (task for task in queue if task.state is not TaskState.SETTLED)
    due = next(waited_for, None)
    return View(
        books.epoch,
        None if due is None else _task(due),
        sum(task.state is TaskState.SETTLED for task in queue),
        tuple(_worker(worker, books) for worker in books.workers),
        {task.id: _task(task) for task in list(schedule.tasks.values())},
    )


def _task(task: Task) -> TaskView:
    return TaskView(task.id, task.epoch, task.batch, task.worker, task.indices, task.attempts)


def _worker(worker: WorkerRecord, books: Books) -> WorkerView:
    host, queued = worker.host, len(worker.waiting) + len(worker.sent)
    if host is None:
        return WorkerView(worker.id, None, None, 0.0, queued)
    process = books.processes[host]
    return WorkerView(worker.id, host, process.state, process.since, queued)
