"""Faults of going back by some batches."""

from __future__ import annotations

from safeloader.core.answers import Answers
from safeloader.core.consumer import ConsumerProgress, Rewinding
from safeloader.core.records import Rewind, Task, WorkerRecord
from safeloader.core.schedule import Schedule
from safeloader.core.shadows import Shadows
from safeloader.core.state import Redo

from . import mutant


@mutant
class OneBatchTooFewIsTakenBack(ConsumerProgress):
    def take_back(self, batches: int) -> list[Task]:
        return super().take_back(batches - 1)


@mutant
class WhatIsTakenBackStillCountsAsGot(ConsumerProgress):
    def take_back(self, batches: int) -> list[Task]:
        batch = self._batch
        again = super().take_back(batches)
        self._batch = batch
        return again


@mutant
class WhatWasNotReceivedIsLost(ConsumerProgress):
    def take_back(self, batches: int) -> list[Task]:
        self._schedule.left.clear()
        return super().take_back(batches)


@mutant
class TheEndOfTheEpochStands(ConsumerProgress):
    def take_back(self, batches: int) -> list[Task]:
        told = self._end_told
        again = super().take_back(batches)
        self._over = self._end_told = told
        return again


@mutant
class TheWorkerGoesOnFromWhereItIs(Rewinding):
    def _plan_again(self, again: list[Task], workers: list[WorkerRecord]) -> None:
        for worker in workers:
            worker.got_snapshot = worker.snapshot
        super()._plan_again(again, workers)


@mutant
class WhoeverWaitedGetsItUnasked(Rewinding):
    def _plan_again(self, again: list[Task], workers: list[WorkerRecord]) -> None:
        self._schedule.requested = True
        super()._plan_again(again, workers)


@mutant
class WhatWasLoadedAheadIsNotLoadedAgain(Schedule):
    def abandon_those_of(self, workers: list[WorkerRecord]) -> list[Task]:
        super().abandon_those_of(workers)
        return []


@mutant
class TheTasksOfOthersAreCancelled(Schedule):
    def abandon_those_of(self, workers: list[WorkerRecord]) -> list[Task]:
        again = super().abandon_those_of(workers)
        self.cancel_before(self._next_task)
        return again


@mutant
class WhatIsPlannedAgainCountsAsDrawn(Schedule):
    def plan_again(self, tasks: list[Task]) -> None:
        first = self._first_of_epoch
        super().plan_again(tasks)
        self._first_of_epoch = first


@mutant
class WhatHurtAProcessIsForgotten(Schedule):
    def plan_again(self, tasks: list[Task]) -> None:
        for task in tasks:
            task.case = None
        super().plan_again(tasks)


@mutant
class WhatIsNotWantedIsLoadedAgainAfterALoss(Schedule):
    def leave_undone_before_rewinding(self, worker: WorkerRecord) -> None:
        if isinstance(worker.waiting[-1], Rewind):  # it has just been told to go back
            super().leave_undone_before_rewinding(worker)


@mutant
class AShadowDoesNotLearnOfIt(Shadows):
    def log(self, worker: WorkerRecord, done: Redo) -> None:
        if done.back is None:
            super().log(worker, done)


@mutant
class ANewCopyDoesNotLearnOfIt(Answers):
    def _log(self, worker: WorkerRecord, done: Redo, seconds: float = 0.0) -> None:
        if done.back is None:
            super()._log(worker, done, seconds)
        else:
            self._shadows.log(worker, done)
