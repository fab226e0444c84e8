"""Who did it: a task that was in work when its process died or hung is charged, and judged when that happens too often.

The sample that was in work each time is bad; where that is not known, a search finds it. What is bad is raised at the
batch's turn, or left out, as policy says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.bisection import Bisection
from safeloader.core.records import Case, Task, WorkerRecord

if TYPE_CHECKING:
    from safeloader.core.books import Books
    from safeloader.core.schedule import Schedule

__all__ = ["Quarantine"]


class Quarantine:
    """Charges, verdicts and searches."""

    def __init__(self, books: Books, schedule: Schedule) -> None:
        self._books = books
        self._schedule = schedule

    # ------------------------------------------------------------ charges and verdicts

    def charge(self, task: Task, cause: str, sample: int | None, stack: str | None) -> None:
        """A process died or hung while it worked on this task."""
        case = task.case = task.case or Case()
        case.same_sample = case.failures == 0 or (case.same_sample and case.sample == sample)
        case.failures += 1
        case.attempts += 1
        case.hangs += cause == "hung"
        case.cause, case.sample, case.stack = cause, sample, stack or case.stack

    def judge(self, task: Task) -> None:
        """Decide what is done with a task that was charged: it waits, first in its worker's queue."""
        case = _case(task)
        if case.failures > self._books.settings.bad_sample_attempts:
            if task.abandoned:  # nobody wants it, so nobody asks who did it
                self._drop(task, None)
            else:
                self._find_culprit(task, case)

    def _find_culprit(self, task: Task, case: Case) -> None:
        left = self.positions(task)
        if not self._books.settings.indexed:
            if self._books.workers[task.worker].exhausted:  # there was nothing left to load
                self._drop(task, None)
            else:
                self._fail(task, ())
        elif len(left) == 1 or (case.same_sample and case.sample in left):
            self._judge_bad(task, self._suspects(task, left))
        else:
            self._books.workers[task.worker].search = Bisection(left)

    @staticmethod
    def _suspects(task: Task, left: tuple[int, ...]) -> tuple[int, ...]:
        case = _case(task)
        return (case.sample,) if case.same_sample and case.sample in left and len(left) > 1 else left

    def do_without(self, task: Task) -> None:
        """No process can be had to find out more about a waiting task that was charged: what is suspected is given up,
        since it must not be loaded in the trainer."""
        worker, left = self._books.workers[task.worker], self.positions(task)
        suspects = self._suspects(task, left)
        if worker.search is not None and worker.waiting[0] is task:
            suspects, worker.search = worker.search.suspects, None
        if task.abandoned or (not self._books.settings.indexed and worker.exhausted):
            self._drop(task, None)
        elif not self._books.settings.indexed:
            self._fail(task, (), unresolved=True)
        else:
            self._judge_bad(task, suspects, unresolved=True)

    def positions(self, task: Task) -> tuple[int, ...]:
        """The positions of a batch that are not left out."""
        return task.positions(self._books.settings.batched)

    def _judge_bad(self, task: Task, positions: tuple[int, ...], unresolved: bool = False) -> None:
        case = _case(task)
        self._books.faults.forgive(case.failures)
        if self._books.settings.on_bad_sample != "skip":
            self._fail(task, positions, unresolved)
            return
        case.skip = tuple(sorted((*case.skip, *positions)))
        case.failures = 0
        names = task.names(positions)
        self._books.emit(m.ReportSkipped(task.id, task.epoch, task.batch, names, case.cause, unresolved))
        if not self.positions(task):
            self._drop(task, None)

    def _fail(self, task: Task, positions: tuple[int, ...], unresolved: bool = False) -> None:
        case = _case(task)
        if not self._books.settings.indexed:  # its iterator cannot get past this point
            worker = self._books.workers[task.worker]
            worker.exhausted = task.last = True
            worker.done = None  # what its log leads to would not have ended here
            self._schedule.worker_ended(worker)
        error = m.DeliverBadSample(
            task.id, task.worker, task.epoch, task.batch, task.names(positions), case.cause, case.attempts, case.stack,
            unresolved,
        )  # fmt: skip
        self._drop(task, error)

    def _drop(self, task: Task, result: m.DeliverBadSample | None) -> None:
        """It is not loaded again."""
        self._books.workers[task.worker].waiting.remove(task)
        self._schedule.settle(task, result)

    # ------------------------------------------------------------ the search

    def next_probe(self, worker: WorkerRecord) -> tuple[Task, tuple[int, ...]]:
        """The suspected task, and the positions of it to load next."""
        assert worker.search is not None
        return self._searched(worker), worker.search.probe()

    def probe_survived(self, worker: WorkerRecord) -> bool:
        """A part of the batch did no harm. True if the search is over."""
        if worker.search is not None:
            worker.search.survived()
        return self._concluded(worker)

    def probe_died(self, worker: WorkerRecord) -> None:
        """A part of the batch killed or hung its process."""
        if worker.search is not None:
            worker.search.died()
        self._concluded(worker)

    def _concluded(self, worker: WorkerRecord) -> bool:
        search, task = worker.search, self._searched(worker)
        assert search is not None
        if task.abandoned:
            worker.search = None
            self._drop(task, None)
        elif search.verdict is not None:
            worker.search = None
            self._apply_verdict(task, search)
        return worker.search is None

    def _apply_verdict(self, task: Task, search: Bisection) -> None:
        case = _case(task)
        if search.verdict:
            self._judge_bad(task, search.verdict)
        elif case.cleared:
            self._judge_bad(task, search.suspects)
        else:  # no part of it did any harm: whatever killed came from outside
            case.cleared, case.failures = True, 0

    @staticmethod
    def _searched(worker: WorkerRecord) -> Task:
        task = worker.waiting[0]
        assert isinstance(task, Task)
        return task


def _case(task: Task) -> Case:
    assert task.case is not None
    return task.case
