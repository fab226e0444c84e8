"""Faults of messages, memory, tasks, and of what nobody wants any more."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Literal

from safeloader.core import messages as m
from safeloader.core.answers import Answers
from safeloader.core.consumer import ConsumerProgress
from safeloader.core.deadlines import DeadlineWatch
from safeloader.core.dispatch import Dispatch
from safeloader.core.leases import Leases
from safeloader.core.records import ProcessRecord, Resume, Task, TaskState, Work, WorkerRecord
from safeloader.core.recovery import Recovery
from safeloader.core.schedule import Schedule
from safeloader.core.supervisor import Supervisor

from . import altered, mutant, without

Kind = Literal["setup", "resume", "task", "probe"]

# ---------------------------------------------------------------- messages


@mutant
class AnAnswerCountsWhoeverGivesIt(Answers):
    def _finish(self, number: int, kind: Kind, about: int, finished_at: float) -> Work | None:
        everyone = self._books.processes
        if number not in everyone:
            number = next((p.id for p in everyone.values() if p.work and p.work[0].about == about), number)
        return super()._finish(number, kind, about, finished_at)


@mutant
class AnAnswerIsTakenForAnother(Answers):
    def _finish(self, number: int, kind: Kind, about: int, finished_at: float) -> Work | None:
        process = self._books.processes.get(number)
        if process is not None and process.work:
            kind, about = process.work[0].kind, process.work[0].about
        return super()._finish(number, kind, about, finished_at)


@mutant
class AnAbandonedProcessStaysOnTheBooks(Recovery):
    def _lose(self, process: ProcessRecord, event: m.ProcessExited | None) -> None:
        super()._lose(process, event)
        if event is None:
            self._books.processes[process.id] = process


# ---------------------------------------------------------------- memory


@mutant
class ALeaseIsFreedAtTheKill(DeadlineWatch):
    def _kill(self, process: ProcessRecord) -> None:
        super()._kill(process)
        for work in process.work:
            if work.task is not None and work.task.lease is not None:
                self._books.leases.give_back(work.task.lease)
                work.task.lease = None


@mutant
class AnAbandonedProcessGivesItsLeaseBack(Leases):
    def retire(self, lease: m.Lease) -> None:
        self.give_back(lease)


@mutant
class ALeaseReturnedTwiceFreesItsSlot(Leases):
    def give_back(self, lease: m.Lease) -> int | None:
        return super().give_back(m.Lease(lease.slot, self._held.get(lease.slot, lease.serial)))


@mutant
class ASurplusSlotIsUsedAgain(Leases):
    def give_back(self, lease: m.Lease) -> int | None:
        surplus = super().give_back(lease)
        if surplus is not None:
            self.retired.discard(surplus)
            self._free.append(surplus)
        return surplus


@mutant
class ASmallBatchKeepsItsLease(Answers):
    def _task_loaded(self, event: m.TaskLoaded) -> None:
        task = self._schedule.tasks.get(event.task)
        with contextlib.nullcontext() if task is None or task.abandoned else without(self._schedule.free_lease):
            super()._task_loaded(event)


@mutant
class AnAbandonedBatchKeepsItsLease(Schedule):
    def _forget(self, task: Task) -> None:
        with without(self.free_lease):
            super()._forget(task)


# ---------------------------------------------------------------- tasks


@mutant
class ALostTaskGoesLast(Recovery):
    def _take_back(self, worker: WorkerRecord, abandoned: bool) -> None:
        lost = len(worker.sent)
        super()._take_back(worker, abandoned)
        worker.waiting.rotate(-lost)


@mutant
class ALostTaskIsForgotten(Recovery):
    def _take_back(self, worker: WorkerRecord, abandoned: bool) -> None:
        lost = len(worker.sent)
        super()._take_back(worker, abandoned)
        for _ in range(lost):
            worker.waiting.popleft()


@mutant
class AnAbandonedTaskIsDelivered(Schedule):
    def settle(self, task: Task, result: m.Deliver | m.DeliverError | m.DeliverBadSample | None) -> None:
        abandoned, task.abandoned = task.abandoned, False
        super().settle(task, result)
        task.abandoned = abandoned


@mutant
class AnAbandonedTaskIsNotFinished(Schedule):
    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        for worker in self._books.workers:
            for task in [item for item in worker.waiting if isinstance(item, Task)]:
                worker.waiting.remove(task)
                self._forget(task)


@mutant
class TheNewEpochIsNotAnnounced(Schedule):
    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        for worker in self._books.workers:
            if worker.waiting and isinstance(worker.waiting[-1], Resume):
                worker.waiting.pop()


@mutant
class BatchesLeaveAsTheyCome(Schedule):
    def _due(self) -> Task | None:
        return super()._due() or next((task for task in self.queue if task.state is TaskState.SETTLED), None)


@mutant
class ADrawIsForgotten(Schedule):
    def _leave_queue(self, task: Task) -> None:
        last_but_one = len(self.queue) == 2
        with altered(self._books, m.PlanTask, lambda command: None if last_but_one else command):
            super()._leave_queue(task)


@mutant
class ADrawTooMany(Schedule):
    def plan_ahead(self) -> None:
        super().plan_ahead()
        self._books.emit(m.PlanTask())


@mutant
class TheTurnIsNotKept(Schedule):
    def begin(self, epoch: int) -> None:
        turn = self.turn
        super().begin(epoch)
        self.turn = turn


@mutant
class AnEndedIteratorStaysInTurn(Schedule):
    def worker_ended(self, worker: WorkerRecord) -> None:
        pass


@mutant
class APlannedTaskWaits(Dispatch):
    def _task_planned(self, event: m.TaskPlanned) -> None:
        self._schedule.plan(event.indices)


@mutant
class WhatWasHandedOverIsNotTold(Schedule):
    def advance(self) -> None:
        super().advance()


# ---------------------------------------------------------------- what nobody wants


@mutant
class WhatIsOnItsWayAndAbandonedIsBegun(Schedule):
    def cancel_before(self, before: int) -> None:
        pass


@mutant
class WhatWaitsAndIsAbandonedIsSent(Schedule):
    def abandon_rest(self) -> None:
        with without(self.leave_undone):
            super().abandon_rest()


@mutant
class WhatWasLostAndIsAbandonedIsSentAgain(Recovery):
    def lose(self, process: ProcessRecord, event: m.ProcessExited | None) -> None:
        with without(self._schedule.leave_undone):
            super().lose(process, event)


@mutant
class WhatIsWantedIsPassedOver(Schedule):
    def cancel_before(self, before: int) -> None:
        super().cancel_before(before + 1)


@mutant
class WhatMovesGeneratorsIsLeftUndone(Schedule):
    def abandon_rest(self) -> None:
        settings = self._books.settings
        self._books.settings = replace(settings, stateless=True)
        super().abandon_rest()
        self._books.settings = settings


@mutant
class WhatWasPassedOverKeepsItsMemory(Answers):
    def _task_passed(self, event: m.TaskCancelled) -> None:
        with without(self._schedule.free_lease):
            super()._task_passed(event)


# ---------------------------------------------------------------- the end


@mutant
class WhatComesBackWithARequestIsLost(ConsumerProgress):
    def _batch_requested(self, event: m.BatchRequested) -> None:
        super()._batch_requested(m.BatchRequested())


@mutant
class WhatComesBackAfterTheEndIsLost(Supervisor):
    def _refuse(self, event: m.BatchRequested) -> None:
        super()._refuse(m.BatchRequested())


@mutant
class WhoAsksAfterTheEndWaits(Supervisor):
    def _refuse(self, event: m.BatchRequested) -> None:
        pass


@mutant
class LoadedBatchesAreKeptAtTheEnd(Supervisor):
    def close(self) -> None:
        with without(self.schedule.abandon_rest):
            super().close()
