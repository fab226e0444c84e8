"""Faults at the ladder's end, and of what doubles a deadline."""

from __future__ import annotations

from typing import Any

from safeloader.core import messages as m
from safeloader.core.deadlines import DeadlineWatch
from safeloader.core.quarantine import Quarantine
from safeloader.core.records import Task, Work, WorkerRecord
from safeloader.core.recovery import Recovery

from . import mutant


@mutant
class AnyDeathDoublesTheDeadline(Quarantine):
    def charge(self, task: Task, cause: str, sample: int | None, stack: str | None) -> None:
        super().charge(task, "hung", sample, stack)
        assert task.case is not None
        task.case.cause = cause


@mutant
class AHangDoublesNothing(Quarantine):
    def charge(self, task: Task, cause: str, sample: int | None, stack: str | None) -> None:
        super().charge(task, cause, sample, stack)
        assert task.case is not None
        task.case.hangs = 0


@mutant
class AnyDeathWhileSettingUpDoublesTheDeadline(DeadlineWatch):
    def _allowed(self, work: Work) -> float:
        worker = self._books.workers[work.worker]
        worker.setup_hangs = worker.setup_failures
        return super()._allowed(work)


@mutant
class StartsThatFailEndALoaderThatNeedsNone(Recovery):
    def _do_without_processes(self, cause: str) -> None:
        self._give_up("restarts", None, cause)


@mutant
class WhatHurtIsGivenUpTooEarly(Recovery):
    def _decide(self, work: Work | None, cause: str, verdict: Any, detail: str = "") -> None:
        super()._decide(work, cause, verdict, detail)
        if self._fleet.rung == 0 and not self._books.closed:
            self._do_without_processes(cause)


@mutant
class WhatHurtWaitsForAProcessForEver(Quarantine):
    def do_without(self, task: Task) -> None:
        pass


@mutant
class WhatWasRefusedIsTriedAgainInTheTrainer(WorkerRecord):
    @property
    def needs_process(self) -> bool:
        return self.quarantined


@mutant
class ARefusedWorkerWaitsForAProcessForEver(Recovery):
    def _do_without_processes(self, cause: str) -> None:
        super()._do_without_processes(cause)
        for worker in self._books.workers:
            worker.lenient = False


@mutant
class WhatWasRefusedIsLeftOutAtOnce(Recovery):
    def _inline_refused(self, event: m.InlineRefused) -> None:
        super()._inline_refused(event)
        self._books.workers[event.worker].lenient = True


@mutant
class ARefusedWorkerStaysInWork(Recovery):
    def _take_out(self, worker: WorkerRecord) -> None:
        inline = self._books.processes[m.INLINE]
        before = inline.work
        super()._take_out(worker)
        inline.work = before
