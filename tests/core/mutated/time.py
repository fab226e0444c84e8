"""Faults of deadlines, and of what follows when one passes."""

from __future__ import annotations

import math
from dataclasses import replace

from safeloader.core import messages as m
from safeloader.core.policy import Deadlines
from safeloader.core.records import Process, ProcessState, Work
from safeloader.core.traffic import Traffic
from safeloader.core.watch import Watch

from . import mutant, without


@mutant
class NoDeadlineIsSet(Traffic):
    def _put(self, process: Process, work: Work) -> None:
        with without(self._sup.watch.arm):
            super()._put(process, work)


@mutant
class ProgressIsNotSeen(Watch):
    def _process_inspected(self, event: m.ProcessInspected) -> None:
        super()._process_inspected(event._replace(progressed_at=-math.inf))


@mutant
class SilenceIsNotSeen(Watch):
    def _condemn(self, process: Process, cause: str, stalled: float) -> None:
        if cause == "failed_start":
            super()._condemn(process, cause, stalled)
        else:
            process.deadline = self._sup.now


@mutant
class OnlyTheOldestMessageCanHoldUp(Watch):
    @staticmethod
    def _named(process: Process, event: m.ProcessInspected) -> Work | None:
        named = Watch._named(process, event)
        return named if named is process.work[0] else None


@mutant
class StacksDoNotLeadToTheKill(Watch):
    def _stacks_captured(self, event: m.StacksCaptured) -> None:
        process = self._sup.fleet.processes.get(event.process)
        if process is not None and process.state is ProcessState.CAPTURING:
            process.stack, process.deadline = event.text, math.inf


@mutant
class AnUnkillableProcessIsWaitedFor(Watch):
    def _await_exit(self, process: Process) -> None:
        super()._await_exit(process)
        process.deadline = math.inf


@mutant
class AProcessThatDoesNotEndIsWaitedFor(Watch):
    def ask_to_end(self, process: Process) -> None:
        super().ask_to_end(process)
        if process.state is ProcessState.STOPPING:
            process.deadline = math.inf


@mutant
class AFalseAlarmKills(Watch):
    def acquit(self, process: Process) -> None:
        if process.state is not ProcessState.CAPTURING or process.cause == "failed_start":
            super().acquit(process)


@mutant
class WhatWaitedForAFalseAlarmIsNotSent(Watch):
    def acquit(self, process: Process) -> None:
        unbalanced = self._sup.fleet.unbalanced
        super().acquit(process)
        self._sup.fleet.unbalanced = unbalanced


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
class ASlowStartIsKilledWhenItIsTold(Watch):
    def _start_is_late(self, process: Process) -> None:
        super()._start_is_late(process)
        if process.slow_start_told and process.state is ProcessState.STARTING:
            self._condemn(process, "failed_start", 0.0)


@mutant
class ASlowStartIsToldAgainAndAgain(Watch):
    def _start_is_late(self, process: Process) -> None:
        super()._start_is_late(process)
        process.slow_start_told = False


# ---------------------------------------------------------------- neighbours in a pool


@mutant
class WhatAnotherHadKilledGetsWork(Watch):
    def _process_forfeited(self, event: m.ProcessForfeited) -> None:
        with without(self._await_exit):
            super()._process_forfeited(event)


class _Inspecting(Watch):
    def _is(self, event: m.ProcessInspected, state: ProcessState) -> bool:
        process = self._sup.fleet.processes.get(event.process)
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
            self._sup.fleet.processes[event.process].deadline = math.inf


@mutant
class ASharedProcessThatStartsIsKilled(Watch):
    def ask_to_end(self, process: Process) -> None:
        settings = self._sup.settings
        self._sup.settings = replace(settings, shared=False)
        super().ask_to_end(process)
        self._sup.settings = settings
