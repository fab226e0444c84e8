"""Faults of how many processes there are, which of them hosts which worker, and of standbys."""

from __future__ import annotations

import math
from collections.abc import Iterable

from safeloader.core import messages as m
from safeloader.core.answers import Answers
from safeloader.core.dispatch import Dispatch
from safeloader.core.failback import Failback
from safeloader.core.fleet import Fleet
from safeloader.core.policy import RestartWindow
from safeloader.core.records import ProcessRecord, ProcessState, Resume, Rewind, Task, WorkerRecord
from safeloader.core.recovery import Recovery
from safeloader.core.shadows import Shadow

from . import altered, mutant, without

# ---------------------------------------------------------------- how many


@mutant
class NoFallback(Fleet):
    def lower(self, why: str) -> bool:
        return False


@mutant
class NeverUpAgain(Fleet):
    def good_batch(self) -> None:
        pass


@mutant
class OldFaultsCountForEver(RestartWindow):
    def add(self, now: float) -> bool:
        self._period = math.inf
        return super().add(now)


@mutant
class AnyNumberOfFaultsIsBorne(RestartWindow):
    def add(self, now: float) -> bool:
        super().add(now)
        return False


@mutant
class RareFaultsAreBorneForEver(RestartWindow):
    def add(self, now: float) -> bool:
        super().add(now)
        return len(self._hits) > self._limit


@mutant
class AGoodTaskChangesNothing(Answers):
    def _finish_task(self, event: m.TaskLoaded | m.TaskRaised | m.WorkerEnded) -> tuple[Task, WorkerRecord] | None:
        row = self._books.faults.row
        finished = super()._finish_task(event)
        self._books.faults.row = row
        return finished


@mutant
class AReplacementBeforeTheExit(Fleet):
    _balancing = False

    def balance(self) -> None:
        self._balancing = True
        super().balance()
        self._balancing = False

    def dying(self) -> int:
        return 0 if self._balancing else super().dying()


@mutant
class SomethingStartsAfterTheEnd(Fleet):
    def balance(self) -> None:
        closed, self._books.closed = self._books.closed, False
        super().balance()
        self._books.closed = closed or self._books.closed


@mutant
class AStartingProcessIsLeftBehind(Fleet):
    def stop_all(self) -> None:
        everyone = self._books.processes
        self._books.processes = {p.id: p for p in everyone.values() if p.state is ProcessState.READY}
        super().stop_all()
        self._books.processes = everyone


@mutant
class ALossByAnothersDoingIsAFault(Recovery):
    def _lose(self, process: ProcessRecord, event: m.ProcessExited | None) -> None:
        process.killed_elsewhere = False
        super()._lose(process, event)


# ---------------------------------------------------------------- where


@mutant
class WhatKillsIsTriedInTheTrainer(Fleet):
    def _belongs_inline(self, worker: WorkerRecord) -> bool:
        return self.rung == 0


@mutant
class AWorkerMovesWithTasksInFlight(Fleet):
    def _move_if_drained(self, worker: WorkerRecord) -> None:
        if worker.host is None:
            return
        process = self.processes[worker.host]
        if process.state is ProcessState.READY:
            self._books.emit(m.DropWorker(process.id, worker.id))
        process.workers.discard(worker.id)
        worker.host = None
        self._place(worker)
        self._stop_if_empty(process)


@mutant
class AWorkerThatShouldMoveStays(Fleet):
    def progressed(self, worker: WorkerRecord) -> None:
        if not worker.moving:
            super().progressed(worker)


@mutant
class TheGeneratorsStayBehind(Dispatch):
    def set_up(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        with altered(self._books, m.HostWorker, lambda command: command._replace(snapshot=worker.epoch_snapshot)):
            super().set_up(worker, process)


@mutant
class AnIteratorBeginsAnew(Dispatch):
    def set_up(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        with altered(self._books, m.HostWorker, lambda command: command._replace(position=0)):
            super().set_up(worker, process)


@mutant
class AWorkerIsHostedInAnotherEpoch(Dispatch):
    def set_up(self, worker: WorkerRecord, process: ProcessRecord) -> None:
        with altered(self._books, m.HostWorker, lambda command: command._replace(epoch=self._books.epoch)):
            super().set_up(worker, process)


@mutant
class AWorkerIsToldTheEpochBefore(Dispatch):
    def _resume(self, worker: WorkerRecord, process: ProcessRecord, item: Resume | Rewind) -> None:
        super()._resume(worker, process, Resume(worker.epoch) if isinstance(item, Resume) else item)


@mutant
class TheEpochsFirstStateIsNotKept(Answers):
    def _worker_resumed(self, event: m.WorkerResumed) -> None:
        worker = self._books.workers[event.worker]
        before = worker.epoch_snapshot
        super()._worker_resumed(event)
        worker.epoch_snapshot = before


@mutant
class MakingANewIteratorMovesNothing(Answers):
    def _worker_resumed(self, event: m.WorkerResumed) -> None:
        super()._worker_resumed(event._replace(snapshot=None))


@mutant
class MakingTheFirstIteratorMovesNothing(Answers):
    def _worker_ready(self, event: m.WorkerReady) -> None:
        super()._worker_ready(event._replace(snapshot=None))


# ---------------------------------------------------------------- standbys


@mutant
class AStandbyIsNotUsed(Fleet):
    def _add_process(self) -> None:
        self._start()


@mutant
class AStandbyStaysOneWhenItTakesOver(Fleet):
    def _add_process(self) -> None:
        process = self.standby()
        super()._add_process()
        if process is not None:
            process.standby = True


@mutant
class AUsedStandbyIsNotReplaced(Fleet):
    def _start(self, standby: bool = False, shadow: Shadow | None = None, failback: bool = False) -> None:
        if not standby or self._next_process < 6:
            super()._start(standby, shadow, failback)


@mutant
class StandbysStayBelowTheTopRung(Fleet):
    def _keep_standbys(self) -> None:
        rung, self.rung = self.rung, self.rungs[0]
        super()._keep_standbys()
        self.rung = rung


@mutant
class StandbysStartWithTheFirst(Fleet):
    def _keep_standbys(self) -> None:
        super()._keep_standbys()
        wanted = self._standby if self.rung == self.rungs[0] > 0 else 0
        for _ in range(wanted - sum(p.standby and not p.asked for p in self.processes.values())):
            self._start(standby=True)


@mutant
class ACondemnedStandbyTakesOver(Fleet):
    def standby(self) -> ProcessRecord | None:
        return super().standby() or next((p for p in self.processes.values() if p.standby), None)


@mutant
class ADyingStandbyCountsAsADyingProcess(Fleet):
    def dying(self) -> int:
        everyone = self.processes.values()
        return super().dying() + sum(p.condemned and p.standby and not p.retiring and not p.asked for p in everyone)


@mutant
class StandbysAreTriedForEver(Fleet):
    def standby_lost(self, cause: str) -> None:
        pass


@mutant
class ALostStandbyCountsAgainstTheLadder(Recovery):
    def _lose(self, process: ProcessRecord, event: m.ProcessExited | None) -> None:
        super()._lose(process, event)
        if process.standby and not (process.asked or process.killed_elsewhere or self._books.closed):
            cause = self._cause(process, event)
            self._decide(None, cause, self._weigh(None, cause))


@mutant
class AStandbyThatWasStoppedIsNotLookedAt(Fleet):
    def _add_process(self) -> None:
        with altered(self._books, m.InspectProcess, lambda command: None):
            super()._add_process()


# ---------------------------------------------------------------- back to other hosts


@mutant
class WhoFellBackStays(Failback):
    def is_due(self, staff: Iterable[ProcessRecord]) -> bool:
        return False


@mutant
class AFailbackAtOnce(Failback):
    def is_due(self, staff: Iterable[ProcessRecord]) -> bool:
        self._good = self._books.settings.recover_after * self._factor
        return super().is_due(staff)


@mutant
class AFailbackForEachThatFellBack(Failback):
    def is_due(self, staff: Iterable[ProcessRecord]) -> bool:
        everyone = self._books.processes
        self._books.processes = {p.id: p for p in everyone.values() if not p.failback}
        due = super().is_due(staff)
        self._books.processes = everyone
        return due


@mutant
class AFailbackBeforeItIsReady(Fleet):
    def _use_failback(self) -> None:
        for process in self.processes.values():
            state = process.state
            if process.failback and state is ProcessState.STARTING:
                process.state = ProcessState.READY
                super()._use_failback()
                process.state = state if process.state is ProcessState.READY else process.state


@mutant
class AFailbackBelowTheTopRung(Fleet):
    def _use_failback(self) -> None:
        if self.rung == self.rungs[0]:
            super()._use_failback()


@mutant
class AFailbackThatIsOfNoUseStays(Fleet):
    def _use_failback(self) -> None:
        with without(self._watch.ask_to_end):
            super()._use_failback()


@mutant
class NobodyMakesRoomForAFailback(Fleet):
    def _use_failback(self) -> None:
        with without(self._retire):
            super()._use_failback()


@mutant
class AFailbackWithoutRoomIsAFault(Recovery):
    def _lose(self, process: ProcessRecord, event: m.ProcessExited | None) -> None:
        process.killed_elsewhere = process.killed_elsewhere and not process.failback
        super()._lose(process, event)


@mutant
class AFailbackIsGivenWork(Fleet):
    def staff(self) -> list[ProcessRecord]:
        return super().staff() + [p for p in self.processes.values() if p.failback and p.alive]


@mutant
class AFailbackCostsWhatADatasetHasChanged(Fleet):
    def _keeps_what_would_be_lost(self, process: ProcessRecord) -> bool:
        return False

    def _move_if_drained(self, worker: WorkerRecord) -> None:
        if worker.host is not None:
            self.processes[worker.host].replaced = False
        super()._move_if_drained(worker)

    def _try_failback(self) -> None:
        if self.failback.is_due(self.staff()):
            self._start(failback=True)
