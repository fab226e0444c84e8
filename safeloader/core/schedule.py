"""Which tasks are planned, which are finished, and whose turn it is.

torch's rules: ``prefetch_factor * num_workers`` draws when an epoch begins, then one for each batch that leaves; the
task goes to the next worker in turn, past those whose iterators have ended. Out of order: to the next worker that has
less than its share.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.records import Case, Resume, Rewind, Task, TaskState, WorkerRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.books import Books
    from safeloader.core.state import State

__all__ = ["Schedule"]

_PLAN, _END = m.PlanTask(), m.EndEpoch()


class Schedule:
    """The tasks, from the sampler to the consumer."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._in_order = books.settings.in_order
        self.tasks: dict[int, Task] = {}
        self.queue: deque[Task] = deque()  # this epoch's undelivered tasks, in plan order
        self.arrived: deque[Task] = deque()  # those that may be delivered now, out of order
        self.delivered: deque[tuple[int, int, int | None, object]] = deque(maxlen=16)  # epoch, batch, worker, indices
        self.left: list[tuple[Task, bool]] = []  # left the queue since the consumer came last, and whether delivered
        self.requested = False  # the consumer waits
        self.plan_over = False
        self._active = len(books.workers)  # workers that have not ended in this epoch
        self._next_task = 0
        self._first_of_epoch = 0
        self._restored = 0  # tasks planned elsewhere, perhaps with a larger window
        self.turn = 0  # the worker that the next task goes to

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {m.PlanEnded: self._plan_ended, m.LeaseReturned: self._lease_returned}

    # ------------------------------------------------------------ planning

    def begin(self, epoch: int) -> None:
        """Start an epoch; what the last one left is abandoned."""
        first = self._books.epoch < 0
        self.abandon_rest()
        self._books.epoch, self._first_of_epoch, self.turn = epoch, self._next_task, 0
        self.requested = self.plan_over = False
        self._active = len(self._books.workers)
        for worker in self._books.workers:
            worker.ended, worker.outstanding = False, 0
            if first:
                worker.epoch = epoch
            else:
                worker.waiting.append(Resume(epoch))

    def plan_ahead(self) -> None:
        """Draw the first tasks of an epoch."""
        for _ in range(self._books.window - len(self.queue)):
            self._books.emit(_PLAN)

    def restore(self, state: State) -> None:
        """Plan what was planned where this state was taken."""
        self._books.epoch, self.turn, self.plan_over = state.epoch, state.turn, state.exhausted
        self._active = sum([not worker.ended for worker in self._books.workers])
        for batch, number, indices, skip in state.planned:
            worker = self._books.workers[number]
            task = self._add(worker, batch, indices)
            if skip:
                task.case = Case(skip=skip)
                if not task.positions(self._books.settings.batched):
                    worker.waiting.remove(task)
                    self.settle(task, None)
        self._first_of_epoch = self._next_task - state.drawn
        self._restored = len(state.planned)

    @property
    def drawn(self) -> int:
        """How many tasks of this epoch were planned."""
        return self._next_task - self._first_of_epoch

    def abandon_rest(self) -> None:
        """What was loaded is freed. What was sent or planned is finished and dropped, since torch lets its workers
        finish it too, and their generators move on with it; unless nobody could tell: then it is not begun."""
        for task in self.queue:
            task.abandoned = True
            if task.state is TaskState.SETTLED:
                self._forget(task)
        self.queue.clear()
        self.arrived.clear()
        if self._books.settings.stateless and not self._books.closed:
            self.leave_undone()
            self.cancel_before(self._next_task)

    def leave_undone(self) -> None:
        """Drop what was abandoned and waits, except what is being probed."""
        for worker in self._books.workers:
            for task in [item for item in worker.waiting if isinstance(item, Task) and item.abandoned]:
                if worker.search is None or task is not worker.waiting[0]:
                    worker.waiting.remove(task)
                    self.settle(task, None)

    def abandon_those_of(self, workers: list[WorkerRecord]) -> list[Task]:
        """These workers go back: what they have done ahead of the consumer counts for nothing. Returns their tasks."""
        numbers = {worker.id for worker in workers}
        theirs = [task for task in self.queue if task.worker in numbers]
        self.queue = deque(task for task in self.queue if task.worker not in numbers)
        self.arrived = deque(task for task in self.arrived if task.worker not in numbers)
        for task in theirs:
            task.abandoned = True
            self._books.workers[task.worker].outstanding -= 1
            if task.state is TaskState.SETTLED:
                self._forget(task)
        if not self.queue and self._books.workers == workers:  # no other task has such a number
            self.cancel_before(self._next_task)
        return theirs

    def leave_undone_before_rewinding(self, worker: WorkerRecord) -> None:
        """Drop what waits before the worker goes back, except what is being probed."""
        items = list(worker.waiting)
        while items and not isinstance(items[-1], Rewind):
            items.pop()
        for task in [item for item in items if isinstance(item, Task)]:
            if worker.search is None or task is not items[0]:
                worker.waiting.remove(task)
                self.settle(task, None)

    def plan_again(self, tasks: list[Task]) -> None:
        """Plan tasks of this epoch once more; the sampler has nothing to do with it."""
        for old in tasks:
            worker = self._books.workers[old.worker]
            task = self._add(worker, old.batch, old.indices)
            task.case = None if old.case is None else replace(old.case)
            verdict = old.result if type(old.result) is m.DeliverBadSample else None
            if verdict is not None or not task.positions(self._books.settings.batched):
                worker.waiting.remove(task)
                self.settle(task, None if verdict is None else verdict._replace(task=task.id))
        self._first_of_epoch += len(tasks)
        self.queue = deque(sorted(self.queue, key=lambda task: task.batch))
        self._restored = max(self._restored, len(self.queue))

    def cancel_before(self, before: int) -> None:
        """Let no process begin a task that is numbered below this."""
        for process in self._books.processes.values():
            if process.id != m.INLINE and any(work.kind == "task" for work in process.work):
                self._books.emit(m.CancelBefore(process.id, before))

    def plan(self, indices: object) -> WorkerRecord | None:
        """Give a task to the next worker in turn. Returns the worker, None if all have ended."""
        workers = self._books.workers
        share = None if self._in_order else max(self._books.window // max(self._active, 1), 1)
        for _ in workers:
            worker = workers[self.turn]
            self.turn = (self.turn + 1) % len(workers)
            if not worker.ended and (share is None or worker.outstanding < share):
                self._add(worker, self._next_task - self._first_of_epoch, indices)
                return worker
        return None

    def _add(self, worker: WorkerRecord, batch: int, indices: object) -> Task:
        number = self._next_task
        self._next_task = number + 1
        task = Task(number, self._books.epoch, batch, worker.id, indices)
        self.tasks[number] = task
        self.queue.append(task)
        worker.outstanding += 1
        worker.waiting.append(task)
        return task

    def _plan_ended(self, event: m.PlanEnded) -> None:
        self.plan_over = True

    def worker_ended(self, worker: WorkerRecord) -> None:
        """A worker's iterator has nothing left for this epoch."""
        if not worker.ended:
            worker.ended = True
            self._active -= 1

    # ------------------------------------------------------------ delivery

    def settle(self, task: Task, result: m.Deliver | m.DeliverError | m.DeliverBadSample | None) -> None:
        """A task has its result; None: there is nothing to deliver."""
        task.state, task.result = TaskState.SETTLED, result
        if task.abandoned:
            self._forget(task)
        elif not self._in_order:
            self.arrived.append(task)

    def advance(self) -> m.Deliver | m.DeliverError | m.DeliverBadSample | m.EndEpoch | None:
        """The consumer waits: hand over the next batch if its turn has come. Returns what is handed over."""
        while True:
            task = self._due()
            if task is None:
                break
            self._leave_queue(task)
            result = task.result
            if type(result) is not m.DeliverBadSample:  # that stands, whoever asks again
                task.result = None
            self.left.append((task, result is not None))
            if result is not None:
                self.requested = False
                self._books.out.append(result)
                if type(result) is m.Deliver:
                    task.given = True
                    task.lease = None  # it is the consumer's now, and comes back as LeaseReturned
                    self.delivered.append((task.epoch, task.batch, task.worker, task.indices))
                return result
        if self.queue or not (self.plan_over or self._active == 0):
            return None
        self.requested = False
        self._books.emit(_END)
        return _END

    def _due(self) -> Task | None:
        if not self._in_order:
            return self.arrived.popleft() if self.arrived else None
        queue = self.queue
        return queue[0] if queue and queue[0].state is TaskState.SETTLED else None

    def _leave_queue(self, task: Task) -> None:
        if self.queue[0] is task:
            self.queue.popleft()
        else:
            self.queue.remove(task)
        del self.tasks[task.id]
        self._books.workers[task.worker].outstanding -= 1
        if not self.plan_over and len(self.queue) < self._books.window:  # there may be more where a state was restored
            self._books.out.append(_PLAN)

    # ------------------------------------------------------------ leases

    def _lease_returned(self, event: m.LeaseReturned) -> None:
        self.give_back(event.lease)

    def free_lease(self, task: Task) -> None:
        """A task needs its memory no longer."""
        if task.lease is not None:
            self.give_back(task.lease)
            task.lease = None

    def give_back(self, lease: m.Lease) -> None:
        """Free a lease, and its memory too if enough is free."""
        surplus = self._books.leases.give_back(lease)
        if surplus is not None:
            self._books.emit(m.FreeSlot(surplus))

    def _forget(self, task: Task) -> None:
        self.free_lease(task)
        del self.tasks[task.id]

    # ------------------------------------------------------------ invariants, for tests

    def validate(self) -> None:
        """Raise AssertionError if a task is lost or kept twice."""
        batches = [task.batch for task in self.queue]
        assert len(batches) == len(set(batches)), "a task is queued twice"
        assert batches == sorted(batches) or not self._in_order, "a task is queued out of plan order"
        queued = [task.id for task in self.queue]
        assert len(queued) <= max(self._books.window, self._restored), (
            "more tasks are outstanding than torch would draw"
        )
        known = set(queued)
        assert known <= self.tasks.keys(), "a queued task is forgotten"
        for task in self.tasks.values():
            assert self._books.closed or task.abandoned != (task.id in known), f"task {task.id} is lost"
            assert task.lease is None or self._books.leases.holds(task.lease), f"task {task.id} lost its lease"
        unsettled = [task for task in self.tasks.values() if task.state is not TaskState.SETTLED]
        listed = [i for worker in self._books.workers for i in (*worker.waiting, *worker.sent) if isinstance(i, Task)]
        assert len(listed) == len(unsettled) and set(listed) == set(unsettled), "a task is in no queue, or in two"
        assert self._active == sum([not worker.ended for worker in self._books.workers])
