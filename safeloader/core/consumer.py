"""How far the consumer has come: the state that another program could go on from, and back by some batches.

A batch counts as got when the consumer comes back for the next one, or says so when it asks for the state: an
interrupt may have come between a batch and its consumer. Each finished task remembers where it left its worker, so that
nothing is computed before somebody asks.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core import new_copy
from safeloader.core.records import Resume, Rewind, Task, WorkerRecord
from safeloader.core.restoring import forget, marked, replayed
from safeloader.core.state import DIGEST, KEPT, PlannedTask, State, WorkerCursor, WorkerPosition

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.books import Books
    from safeloader.core.deadlines import DeadlineWatch
    from safeloader.core.dispatch import Dispatch
    from safeloader.core.records import Task, WorkerRecord
    from safeloader.core.schedule import Schedule
    from safeloader.core.state import AsNew, Redo

__all__ = ["ConsumerProgress", "Rewinding"]


KEPT_TASKS = 16
"""So many of the last tasks can be planned again."""


class ConsumerProgress:
    """What the consumer got."""

    def __init__(self, books: Books, schedule: Schedule, watch: DeadlineWatch, dispatch: Dispatch) -> None:
        self._books = books
        self._schedule = schedule
        self._watch = watch
        self._dispatch = dispatch
        self._indexed = books.settings.indexed
        self.wanted = False  # somebody waits for the state
        self._end_told = False
        self._over = False
        self._batch = 0
        self._turn = 0
        self._last: Task | PlannedTask | None = None
        self._history: deque[Task] = deque(maxlen=KEPT_TASKS)  # what was got last, in this epoch
        self._final: dict[bool, State] = {}  # when the loader ended: by whether its last batch was received

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.BatchRequested: self._batch_requested,
            m.StateRequested: self._requested,
            m.WorkerMarked: self._marked,
        }

    # ------------------------------------------------------------ what happens

    def begin(self) -> None:
        """A new epoch."""
        self._schedule.left.clear()
        self._end_told = self._over = False
        self._batch, self._turn, self._last = 0, 0, None
        self._history.clear()

    def end(self) -> None:
        """The consumer is told that the epoch is over."""
        self._end_told = True

    def _batch_requested(self, event: m.BatchRequested) -> None:
        for lease in event.leases:
            self._schedule.give_back(lease)
        self.confirm()
        self._schedule.requested = True

    def confirm(self) -> None:
        """The consumer has got what was handed over."""
        for task, delivered in self._schedule.left:
            worker = self._books.workers[task.worker]
            if task.place is not None:
                worker.got, worker.got_snapshot = task.place, task.snapshot
                if worker.marks:
                    forget(worker)
            worker.got_end = worker.got_end or task.last
            self._last = task
            if self._indexed:
                self._history.append(task)
            if self._indexed or delivered:
                self._batch += 1
                self._turn = (task.worker + 1) % len(self._books.workers)
        self._schedule.left.clear()
        self._over = self._end_told

    def known(self, received: bool) -> int:
        """How many batches that the consumer got can be given again; among them what was handed over, if received."""
        handed = [task for task, _ in self._schedule.left] if received and self._indexed else []
        return sum([task.given for task in [*self._history, *handed][-KEPT_TASKS:]])

    def take_back(self, batches: int) -> list[Task]:
        """So many of the last batches are not got any more, nor is what was handed over since."""
        got: list[Task] = []
        while batches > 0:
            task = self._history.pop()
            batches -= task.given
            got.append(task)
        handed = [task for task, _ in self._schedule.left]
        self._schedule.left.clear()
        for task in (*reversed(handed), *got):
            worker = self._books.workers[task.worker]
            if task.place is not None:
                worker.got, worker.got_snapshot = task.place - 1, task.before
        self._batch -= len(got)
        self._last = self._history[-1] if self._history else None
        self._over = self._end_told = False
        return [*reversed(got), *handed]

    # ------------------------------------------------------------ what datasets say of themselves

    def _marked(self, event: m.WorkerMarked) -> None:
        worker = self._books.workers[event.worker]
        if worker.host == event.process and event.process in self._books.processes:
            marked(worker, event.content)

    # ------------------------------------------------------------ the state

    def _requested(self, event: m.StateRequested) -> None:
        if self._books.closed:
            self._books.emit(m.GiveState(self._final.get(event.received)))
            return
        if event.received:
            self.confirm()
        self.wanted = True

    def advance(self) -> None:
        """Tell the state once every worker has begun this epoch; one that waits in the trainer is made to."""
        behind = [worker for worker in self._books.workers if _is_behind(worker)]
        if not behind:
            self.wanted = False
            self._books.emit(m.GiveState(self.state()))
        for worker in behind:
            if worker.host == m.INLINE:
                self._dispatch.load_inline(worker)
                return

    def close(self) -> None:
        """The loader ends: keep where the consumer stands, for whoever asks later."""
        if self._books.epoch < 0 or any(map(_is_behind, self._books.workers)):
            if self.wanted:
                self._books.emit(m.GiveState(None))
            return
        self._final[False] = self.state()
        if self.wanted:
            self._books.emit(m.GiveState(self._final[False]))
        self.confirm()
        self._final[True] = self.state()

    def state(self) -> State:
        """Where the consumer stands."""
        schedule, last = self._schedule, self._last
        tasks = [*(task for task, _ in self._schedule.left), *schedule.queue] if self._indexed else []
        return State(
            epoch=self._books.epoch,
            batch=self._batch,
            drawn=schedule.drawn if self._indexed else self._batch,
            turn=schedule.turn if self._indexed else self._turn,
            over=self._over,
            last=PlannedTask(last.batch, last.worker, last.indices) if last is not None and self._indexed else None,
            planned=tuple(PlannedTask(task.batch, task.worker, task.indices, task.skip) for task in tasks),
            workers=tuple(self._standing(worker) for worker in self._books.workers),
            slowest=self._watch.deadlines.learned,
            exhausted=schedule.plan_over,
        )

    def _standing(self, worker: WorkerRecord) -> WorkerCursor:
        marks = [mark for mark in worker.marks if mark.position <= worker.got]
        mark = marks[-1] if marks else None
        if self._over and mark is None and not self._books.settings.stateful:  # nothing of this epoch matters any more
            return WorkerCursor(0, True, None, worker.got_snapshot, None, (), b"", *self._changes(worker))
        replay = replayed(worker, mark, worker.got)
        digests = _digests(worker)
        return WorkerCursor(
            worker.got, worker.got_end, worker.epoch_snapshot, worker.got_snapshot, mark, replay, digests,
            *self._changes(worker),
        )  # fmt: skip

    def _changes(self, worker: WorkerRecord) -> tuple[bool, AsNew | None, tuple[Redo, ...] | None]:
        """Whether its dataset has changed itself, from where on it did what, and what."""
        as_new, done = new_copy.as_got(worker) if worker.changed and self._indexed else (None, ())
        return (False, None, ()) if done == () else (True, as_new, done)

    def restore(self, state: State) -> None:
        """Begin where another loader stood."""
        self._batch, self._turn, self._last = state.batch, state.turn, state.last
        self._over = self._end_told = state.over
        for worker, standing in zip(self._books.workers, state.workers, strict=True):
            worker.epoch, worker.epoch_snapshot = state.epoch, standing.epoch_snapshot
            worker.position = worker.got = standing.position
            worker.snapshot = worker.got_snapshot = standing.snapshot
            worker.exhausted = worker.ended = worker.got_end = standing.ended
            worker.log.extend(standing.replay)
            worker.digests += standing.digests
            worker.first = standing.mark
            if standing.mark is not None:
                worker.marks.append(standing.mark)
            new_copy.adopt(worker, self._indexed)
            if standing.changed and standing.done is not None:
                new_copy.take_over(worker, standing.as_new, standing.done)
                self._books.changing = True
            elif standing.changed:
                self._books.emit(_lost(worker))


def _lost(worker: WorkerRecord) -> m.ReportReplay:
    """No new copy of its dataset can become what it was."""
    return m.ReportReplay(worker.id, worker.epoch, "lost", "state", worker.position, worker.position, 0, "", "goes on")


def _digests(worker: WorkerRecord) -> bytes:
    """Of the last of the tasks that the consumer got."""
    end = max(len(worker.digests) - DIGEST * (worker.position - worker.got), 0)
    return bytes(worker.digests[max(end - DIGEST * KEPT, 0) : end])


def _is_behind(worker: WorkerRecord) -> bool:
    """True if it has not begun this epoch."""
    return any(isinstance(item, Resume) for item in (*worker.waiting, *worker.sent))


class Rewinding:
    """The consumer wants its last batches again.

    Their tasks are planned anew, under new numbers, and so is what their workers had loaded or were to load after them.
    The sampler is not asked: it stays where it is. Each of these workers goes back to where it stood before the first
    of its tasks, and does them again, in the old order; what it has in work meanwhile is thrown away. The other
    workers, and what they have loaded ahead, stay as they are.

    That is exact where a batch depends on its indices and on its worker's generators alone.
    """

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
