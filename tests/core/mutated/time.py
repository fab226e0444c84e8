"""Faults of deadlines, and of what follows when one passes."""

from __future__ import annotations

import math
from dataclasses import replace

from safeloader.core import messages as m
from safeloader.core.deadlines import DeadlineWatch
from safeloader.core.dispatch import Dispatch
from safeloader.core.policy import Deadlines
from safeloader.core.records import ProcessRecord, ProcessState, Work

from . import mutant, without


@mutant
class NoDeadlineIsSet(Dispatch):
    def _put(self, process: ProcessRecord, work: Work) -> None:
        with without(self._watch.arm):
            super()._put(process, work)


@mutant
class ProgressIsNotSeen(DeadlineWatch):
    def _process_inspected(self, event: m.ProcessInspected) -> None:
        super()._process_inspected(event._replace(progressed_at=-math.inf))


@mutant
class SilenceIsNotSeen(DeadlineWatch):
    def _condemn(self, process: ProcessRecord, cause: str, stalled: float) -> None:
        if cause == "failed_start":
            super()._condemn(process, cause, stalled)
        else:
            process.deadline = self._books.now


@mutant
class OnlyTheOldestMessageCanHoldUp(DeadlineWatch):
    @staticmethod
    def _named(process: ProcessRecord, event: m.ProcessInspected) -> Work | None:
        named = DeadlineWatch._named(process, event)
        return named if named is process.work[0] else None


@mutant
class StacksDoNotLeadToTheKill(DeadlineWatch):
    def _stacks_captured(self, event: m.StacksCaptured) -> None:
        process = self._books.processes.get(event.process)
        if process is not None and process.state is ProcessState.CAPTURING:
            process.stack, process.deadline = event.text, math.inf


@mutant
class AnUnkillableProcessIsWaitedFor(DeadlineWatch):
    def _await_exit(self, process: ProcessRecord) -> None:
        super()._await_exit(process)
        process.deadline = math.inf


@mutant
class AnAbandonedProcessIsNotLost(DeadlineWatch):
    def passed(self, process: ProcessRecord) -> bool:
        super().passed(process)
        return False


@mutant
class AProcessThatDoesNotEndIsWaitedFor(DeadlineWatch):
    def ask_to_end(self, process: ProcessRecord) -> None:
        super().ask_to_end(process)
        if process.state is ProcessState.STOPPING:
            process.deadline = math.inf


@mutant
class AFalseAlarmKills(DeadlineWatch):
    def clear_suspicion(self, process: ProcessRecord) -> None:
        if process.state is not ProcessState.CAPTURING or process.cause == "failed_start":
            super().clear_suspicion(process)


@mutant
class WhatWaitedForAFalseAlarmIsNotSent(DeadlineWatch):
    def clear_suspicion(self, process: ProcessRecord) -> None:
        unbalanced = self._books.unbalanced
        super().clear_suspicion(process)
        self._books.unbalanced = unbalanced


@mutant
class ASecondAttemptHasNoMoreTime(Deadlines):
    def batch(self, attempts: int, first: bool = False) -> float:
        return super().batch(0, first)

    def startup(self, attempts: int) -> float:
        return super().startup(0)

    def start(self, attempts: int) -> float:
        return super().start(0)


# ---------------------------------------------------------------- starts


@mutant
class AStartThatStandsIsWaitedFor(Deadlines):
    def started(self, seconds: float) -> None:
        pass


@mutant
class ASlowStartIsTakenForOneThatStands(Deadlines):
    def start(self, attempts: int) -> float:
        return self.slowest_start or super().start(attempts)


@mutant
class AStartThatWasStoppedIsNoLongerMeasured(DeadlineWatch):
    def _start_is_late(self, process: ProcessRecord, stopped: bool = False) -> None:
        if stopped:
            process.deadline = math.inf
        else:
            super()._start_is_late(process, stopped)


@mutant
class ASlowStartIsKilledWhenItIsTold(DeadlineWatch):
    def _start_is_late(self, process: ProcessRecord, stopped: bool = False) -> None:
        super()._start_is_late(process, stopped)
        if process.slow_start_told and process.state is ProcessState.STARTING:
            self._condemn(process, "failed_start", 0.0)


@mutant
class ASlowStartIsToldAgainAndAgain(DeadlineWatch):
    def _start_is_late(self, process: ProcessRecord, stopped: bool = False) -> None:
        super()._start_is_late(process, stopped)
        process.slow_start_told = False


# ---------------------------------------------------------------- neighbours in a pool


@mutant
class WhatAnotherHadKilledGetsWork(DeadlineWatch):
    def _process_forfeited(self, event: m.ProcessLostElsewhere) -> None:
        with without(self._await_exit):
            super()._process_forfeited(event)


class _Inspecting(DeadlineWatch):
    def _is(self, event: m.ProcessInspected, state: ProcessState) -> bool:
        process = self._books.processes.get(event.process)
        return process is not None and process.state is state


class _NotElsewhere(_Inspecting):
    state: ProcessState

    def _process_inspected(self, event: m.ProcessInspected) -> None:
        elsewhere = event.elsewhere and not self._is(event, self.state)
        super()._process_inspected(event._replace(elsewhere=elsewhere))


@mutant
class WorkForAnotherIsAHang(_NotElsewhere):
    state = ProcessState.READY


@mutant
class WorkForAnotherIsAFailedStart(_NotElsewhere):
    state = ProcessState.STARTING


@mutant
class WhoWorksForAnotherIsNeverLookedAtAgain(_Inspecting):
    def _process_inspected(self, event: m.ProcessInspected) -> None:
        super()._process_inspected(event)
        if event.elsewhere and self._is(event, ProcessState.READY):
            self._books.processes[event.process].deadline = math.inf


@mutant
class ASharedProcessThatStartsIsKilled(DeadlineWatch):
    def ask_to_end(self, process: ProcessRecord) -> None:
        settings = self._books.settings
        self._books.settings = replace(settings, shared=False)
        super().ask_to_end(process)
        self._books.settings = settings
