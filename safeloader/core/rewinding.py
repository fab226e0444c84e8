"""The consumer wants its last batches again.

Their tasks are planned anew, under new numbers, and so is what their workers had loaded or were to load after them. The
sampler is not asked: it stays where it is. Each of these workers goes back to where it stood before the first of its
tasks, and does them again, in the old order; what it has in work meanwhile is thrown away. The other workers, and what
they have loaded ahead, stay as they are.

That is exact where a batch depends on its indices and on its worker's generators alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.records import Rewind
from safeloader.core.state import WorkerPosition

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.books import Books
    from safeloader.core.consumer import ConsumerProgress
    from safeloader.core.dispatch import Dispatch
    from safeloader.core.records import Task, WorkerRecord
    from safeloader.core.schedule import Schedule

__all__ = ["Rewinding"]


class Rewinding:
    """Goes back by some batches."""

    def __init__(self, books: Books, schedule: Schedule, progress: ConsumerProgress, dispatch: Dispatch) -> None:
        self._books = books
        self._schedule = schedule
        self._progress = progress
        self._dispatch = dispatch

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {m.RewindRequested: self._requested}

    def known(self, received: bool) -> int:
        """How many batches can be given again, if what was handed over last was received, or not."""
        return self._progress.known(received)

    def _requested(self, event: m.RewindRequested) -> None:
        if not 0 < event.batches <= self._progress.known(event.received):
            return
        if event.received:
            self._progress.confirm()
        self._schedule.requested = False  # whoever waited asks again
        self._books.unbalanced = True  # what must not be loaded in the trainer may have to be loaded again
        again = self._progress.take_back(event.batches)
        workers = [self._books.workers[number] for number in sorted({task.worker for task in again})]
        self._plan_again(again, workers)
        for worker in workers:
            self._dispatch.feed(worker)

    def _plan_again(self, again: list[Task], workers: list[WorkerRecord]) -> None:
        again += self._schedule.abandon_those_of(workers)
        for worker in workers:
            worker.waiting.append(Rewind(self._books.epoch, WorkerPosition(worker.got, worker.got_snapshot)))
            self._schedule.leave_undone_before_rewinding(worker)
        self._schedule.plan_again(sorted(again, key=lambda task: task.batch))
