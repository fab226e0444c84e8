"""The one door of the core: ``handle(event, now) -> list[Command]``, and ``next_deadline()``.

Theory of operation. The *ledger* part (this file) knows which tasks were planned and hands batches over in order. The
*fleet* knows which process hosts which worker and what is in flight to it; it restarts, falls back and recovers. The
*watch* is the fleet's view of time. All of them write commands to one list, in the order in which they are to be
carried out. Wart: ``handle`` is not reentrant; the driver queues the events that carrying out a command produces.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from . import messages as m
from .fleet import Fleet
from .leases import Leases
from .policy import CoreSettings
from .records import ProcessState, Resume, Task, TaskState, Worker
from .story import Story

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Supervisor"]


class Supervisor:
    """Decides everything about one loader's tasks, workers and processes.

    Args:
        settings: what policy wants.
        story_length: how many events are remembered.
    """

    def __init__(self, settings: CoreSettings, story_length: int = 512) -> None:
        self.settings = settings
        self.story = Story(story_length)
        self.window = settings.prefetch_factor * settings.num_workers
        self.leases = Leases(keep=self.window + 8)
        self.workers = [Worker(i) for i in range(settings.num_workers)]
        self.tasks: dict[int, Task] = {}
        self.queue: deque[Task] = deque()  # this epoch's undelivered tasks, in plan order
        self.arrived: deque[Task] = deque()  # those that may be delivered now, out of order
        self.epoch = -1
        self.batches = 0
        self.requested = False
        self.plan_over = False
        self.stale = 0
        self.closed = False
        self._next_task = 0
        self._first_of_epoch = 0
        self._turn = 0
        self._out: list[m.Command] = []
        self._now = 0.0
        self.fleet = Fleet(self)
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.EpochBegan: self._epoch_began,
            m.TaskPlanned: self._task_planned,
            m.PlanEnded: self._plan_ended,
            m.BatchRequested: self._batch_requested,
            m.LeaseReturned: self._lease_returned,
            m.CloseRequested: self._close_requested,
            m.TaskLoaded: self._task_loaded,
            m.TaskRaised: self._task_raised,
            m.WorkerEnded: self._worker_ended,
            **self.fleet.handlers(),
        }

    # ------------------------------------------------------------ the door

    def handle(self, event: m.Event, now: float) -> list[m.Command]:
        """Take one fact, return what is to be done, in order."""
        out: list[m.Command] = []
        self._out, self._now = out, now
        self._handlers[type(event)](event)
        self.story.add(now, event, out)
        return out

    def next_deadline(self) -> float:
        """The time at which ``ClockAdvanced`` should be told, ``inf`` if none."""
        return self.fleet.next_deadline()

    def emit(self, command: m.Command) -> None:
        self._out.append(command)

    @property
    def now(self) -> float:
        return self._now

    # ------------------------------------------------------------ planning

    def _epoch_began(self, event: m.EpochBegan) -> None:
        if self.closed:
            return
        first = self.epoch < 0
        self._abandon_rest()
        self.epoch, self._first_of_epoch, self._turn = event.epoch, self._next_task, 0
        self.requested = self.plan_over = False
        for worker in self.workers:
            worker.ended, worker.outstanding = False, 0
            if first:
                worker.epoch = event.epoch
            else:
                worker.waiting.append(Resume(event.epoch, self._next_task))
        if first:
            self.fleet.open()
        else:
            self.fleet.feed_all()
        self._out.extend([m.PlanTask()] * self.window)

    def _abandon_rest(self) -> None:
        """What was loaded is freed; what was sent is finished and dropped, since torch lets its workers finish it
        too, and their generators move on with it."""
        for task in self.queue:
            task.abandoned = True
            if task.state in (TaskState.LOADED, TaskState.FAILED, TaskState.EMPTY):
                self._free_lease(task)
                self._done(task)
        self.queue.clear()
        self.arrived.clear()

    def _task_planned(self, event: m.TaskPlanned) -> None:
        worker = self._next_worker()
        if worker is None or self.closed:
            return
        number = self._next_task
        task = Task(number, self.epoch, number - self._first_of_epoch, worker.id, event.indices)
        self._next_task += 1
        self.tasks[number] = task
        self.queue.append(task)
        worker.waiting.append(task)
        worker.outstanding += 1
        self.fleet.feed(worker)

    def _next_worker(self) -> Worker | None:
        """torch's rule: the next active worker in turn; out of order, the next that has less than its share."""
        count = len(self.workers)
        active = count - sum(w.ended for w in self.workers)
        for _ in range(count):
            worker = self.workers[self._turn]
            self._turn = (self._turn + 1) % count
            if not worker.ended and (
                self.settings.in_order or worker.outstanding < max(self.window // active, 1)
            ):
                return worker
        return None

    def _plan_ended(self, event: m.PlanEnded) -> None:
        self.plan_over = True
        self.advance()

    # ------------------------------------------------------------ delivery

    def _batch_requested(self, event: m.BatchRequested) -> None:
        if not self.closed:
            self.requested = True
            self.advance()

    def advance(self) -> None:
        """Hand over the next batch if the consumer waits and its turn has come."""
        while self.requested:
            task = self._due()
            if task is None:
                break
            self._leave_queue(task)
            if task.state is not TaskState.EMPTY:
                self.requested = False
                self._deliver(task)
            self._done(task)
        if self.requested:
            if not self.queue and (self.plan_over or all(w.ended for w in self.workers)):
                self.requested = False
                self.emit(m.EndEpoch())
            else:
                self.fleet.load_inline(self._first_waiting())

    def _due(self) -> Task | None:
        if not self.settings.in_order:
            return self.arrived.popleft() if self.arrived else None
        if self.queue and self.queue[0].state in (TaskState.LOADED, TaskState.FAILED, TaskState.EMPTY):
            return self.queue[0]
        return None

    def _leave_queue(self, task: Task) -> None:
        if self.queue[0] is task:
            self.queue.popleft()
        else:
            self.queue.remove(task)
        self.workers[task.worker].outstanding -= 1
        if not self.plan_over:
            self.emit(m.PlanTask())

    def _deliver(self, task: Task) -> None:
        if task.outcome is not None:
            self.emit(task.outcome)
            return
        self.batches += 1
        self.emit(m.Deliver(task.id, task.batch_data, task.lease))
        task.lease = None  # it is the consumer's now, and comes back as LeaseReturned
        self.fleet.good_batch()

    def _first_waiting(self) -> Task | None:
        if self.settings.in_order:
            return self.queue[0] if self.queue and self.queue[0].state is TaskState.WAITING else None
        return next((t for t in self.queue if t.state is TaskState.WAITING), None)

    def _done(self, task: Task) -> None:
        task.state = TaskState.DONE
        task.batch_data = None
        self.tasks.pop(task.id, None)

    def settle(self, task: Task, state: TaskState) -> None:
        """A task has its result: loaded, failed or empty."""
        if task.abandoned:
            self._free_lease(task)
            self._done(task)
            return
        task.state = state
        if not self.settings.in_order:
            self.arrived.append(task)
        self.advance()

    # ------------------------------------------------------------ results

    def _finished(
        self, event: m.TaskLoaded | m.TaskRaised | m.WorkerEnded
    ) -> tuple[Task, Worker] | tuple[None, None]:
        """Check a result against the books; it counts only from the process that the task was sent to."""
        if not self.fleet.finish(event.process, "task", event.task, event.finished_at):
            self.stale += 1
            return None, None
        task = self.tasks[event.task]
        worker = self.workers[task.worker]
        worker.sent.popleft()
        if event.snapshot is not None:
            worker.snapshot = event.snapshot
        return task, worker

    def _task_loaded(self, event: m.TaskLoaded) -> None:
        task, worker = self._finished(event)
        if task is None or worker is None:
            return
        self.fleet.deadlines.observe(event.finished_at - event.taken_at, first=worker.position == 0)
        worker.position += 1
        task.batch_data = event.batch
        if event.nbytes == 0:
            self._free_lease(task)
        if event.dropped:
            self._report_dropped(task, event.dropped)
        self.settle(task, TaskState.EMPTY if event.batch is None else TaskState.LOADED)
        self.fleet.progressed(worker)

    def _task_raised(self, event: m.TaskRaised) -> None:
        task, worker = self._finished(event)
        if task is None or worker is None:
            return
        worker.position += 1
        self._free_lease(task)
        task.outcome = m.DeliverError(task.id, worker.id, event.error)
        self.report(event.cause, "", event.process, task, sample=event.sample, action="raised")
        self.settle(task, TaskState.FAILED)
        self.fleet.progressed(worker)

    def _worker_ended(self, event: m.WorkerEnded) -> None:
        task, worker = self._finished(event)
        if task is None or worker is None:
            return
        worker.exhausted = True
        if task.epoch == self.epoch:
            worker.ended = True
        self._free_lease(task)
        self.settle(task, TaskState.EMPTY)
        self.fleet.progressed(worker)

    def _report_dropped(self, task: Task, dropped: tuple[tuple[int, str], ...]) -> None:
        names = tuple(sample_of(task, position) for position, _ in dropped)
        self.emit(m.ReportSkipped(task.id, task.epoch, task.batch, names, dropped[0][1]))

    # ------------------------------------------------------------ leases and the end

    def _free_lease(self, task: Task) -> None:
        if task.lease is not None:
            self.give_back(task.lease)
            task.lease = None

    def give_back(self, lease: m.Lease) -> None:
        surplus = self.leases.give_back(lease)
        if surplus is not None:
            self.emit(m.FreeSlot(surplus))

    def _lease_returned(self, event: m.LeaseReturned) -> None:
        self.give_back(event.lease)

    def _close_requested(self, event: m.CloseRequested) -> None:
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.requested = False
            self.fleet.stop_all()

    def give_up(self, cause: str, error: object, detail: str) -> None:
        self.emit(m.GiveUp(cause, error, detail))
        self.close()

    # ------------------------------------------------------------ telling

    def report(
        self,
        cause: str,
        detail: str,
        process: int,
        task: Task | None,
        *,
        worker: int | None = None,
        sample: int | None = None,
        stack: str | None = None,
        stalled: float = 0.0,
        action: str,
    ) -> None:
        self.emit(
            m.ReportFault(
                cause, detail, process, task.worker if task else worker, task.id if task else None,
                task.epoch if task else self.epoch, task.batch if task else None, task.indices if task else None,
                sample, stack, task.attempts if task else 0, stalled, action,
            )
        )  # fmt: skip

    # ------------------------------------------------------------ invariants, for tests

    def validate(self) -> None:
        """Raise AssertionError if the books do not balance."""
        self.leases.validate()
        self.fleet.validate()
        queued = {t.id for t in self.queue}
        assert len(queued) == len(self.queue), "a task is queued twice"
        assert [t.id for t in self.queue] == sorted(queued), "the queue is out of plan order"
        for task in self.tasks.values():
            worker = self.workers[task.worker]
            places = sum(i is task for i in worker.waiting) + sum(i is task for i in worker.sent)
            with_worker = task.state in (TaskState.WAITING, TaskState.SENT)
            assert places == with_worker, f"task {task.id} ({task.state}) is in {places} places"
            assert task.abandoned or task.id in queued, f"task {task.id} is lost"
            assert (task.lease is None) or self.leases.holds(task.lease), f"task {task.id} holds a lease it lost"
        assert len(queued) <= self.window, "more tasks are outstanding than torch would draw"
        if not self.closed:
            assert self.fleet.processes_alive() or self.fleet.rung == 0 or self.epoch < 0 or self.fleet.dying(), (
                "nobody is left to work"
            )


def sample_of(task: Task, position: int | None) -> object:
    """The index at a position of a batch, as the sampler named it."""
    if position is None:
        return None
    try:
        return task.indices[position]  # type: ignore[index]
    except (TypeError, IndexError, KeyError):
        return task.indices


_ = ProcessState
