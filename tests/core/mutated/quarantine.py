"""Faults of blame: who did it, and what is done about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from safeloader.core import messages as m
from safeloader.core.bisection import Bisection
from safeloader.core.dispatch import Dispatch
from safeloader.core.quarantine import Quarantine
from safeloader.core.records import Case, ProcessRecord, Task, Work, WorkerRecord
from safeloader.core.recovery import Recovery

from . import altered, mutant


@mutant
class ABadSampleIsTriedForEver(Quarantine):
    def judge(self, task: Task) -> None:
        pass


@mutant
class JudgedTooEarly(Quarantine):
    def judge(self, task: Task) -> None:
        settings = self._books.settings
        self._books.settings = replace(settings, bad_sample_attempts=settings.bad_sample_attempts - 1)
        super().judge(task)
        self._books.settings = settings


@mutant
class TheWrongSampleIsConvicted(Quarantine):
    def _find_culprit(self, task: Task, case: Case) -> None:
        if self._books.settings.indexed and len(self.positions(task)) > 1:
            self._judge_bad(task, (case.sample or 0,))
        else:
            super()._find_culprit(task, case)


@mutant
class ASkippedSampleIsLoaded(Dispatch):
    def _send_next(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        with altered(self._books, m.SendTask, lambda command: command._replace(skip=())):
            super()._send_next(worker, process)


@mutant
class AHuntLeavesItsTraces(Dispatch):
    def refresh(self, worker: WorkerRecord) -> None:
        pass


@mutant
class AHuntLooksInTheWrongHalf(Bisection):
    def probe(self) -> tuple[int, ...]:
        return self.suspects[: len(self.suspects) // 2]


@mutant
class ARefusalIsTakenLightly(Recovery):
    def _start_refused(self, event: m.StartRefused) -> None:
        proven, self._books.proven = self._books.proven, True
        super()._start_refused(event)
        self._books.proven = proven


@mutant
class AnyRefusalEndsIt(Recovery):
    def _start_refused(self, event: m.StartRefused) -> None:
        proven, self._books.proven = self._books.proven, False
        super()._start_refused(event)
        self._books.proven = proven


@mutant
class SettingUpIsTriedForEver(Recovery):
    def _decide(self, work: Work | None, cause: str, verdict: Any, detail: str = "") -> None:
        about = None if work is not None and work.kind in ("setup", "resume") else work
        super()._decide(about, cause, verdict, detail)


@mutant
class AFaultIsReportedBeforeItIsDecided(Recovery):
    def _outcome(self, work: Work | None, place: int) -> str:
        return "again" if work is not None and work.task is not None else ""


@mutant
class AFaultThatEndsTheLoaderPromisesMore(Recovery):
    def _outcome(self, work: Work | None, place: int) -> str:
        said = super()._outcome(work, place)
        return "raised" if said == "ended" and work is not None and work.task is not None else said
