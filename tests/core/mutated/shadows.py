"""Faults of shadows: which there are, what they hold, and who goes on from them."""

from __future__ import annotations

from safeloader.core import messages as m
from safeloader.core.answers import Answers
from safeloader.core.dispatch import Dispatch
from safeloader.core.fleet import Fleet
from safeloader.core.records import ProcessRecord, WorkerRecord
from safeloader.core.restoring import Returning
from safeloader.core.shadows import Shadow, Shadows
from safeloader.core.state import AsNew, Redo

from . import mutant, without


@mutant
class AShadowIsNotUsed(Shadows):
    def next(self) -> Shadow | None:
        return None


@mutant
class WhatWasDoneSinceAShadowIsNotRedone(Shadows):
    def claim(self, worker: WorkerRecord, process: ProcessRecord) -> tuple[Redo, ...] | None:
        redo = super().claim(worker, process)
        return redo and redo[1:]


@mutant
class AnEpochIsNotRedone(Shadows):
    def log(self, worker: WorkerRecord, done: Redo) -> None:
        if done.epoch is None:
            super().log(worker, done)


@mutant
class ANewShadowDoesNotReplaceTheOld(Shadows):
    def taken(self, event: m.ShadowTaken) -> None:
        process = self._books.processes.get(event.process)
        if process is not None and self._is_as_the_books_say(process):
            self.behind.pop(event.process, None)
        super().taken(event)


@mutant
class ACopyOfAWorkerThatIsNotReadyCounts(Shadows):
    def _is_as_the_books_say(self, process: ProcessRecord) -> bool:
        searched = any(self._books.workers[number].search is not None for number in process.workers)
        return bool(process.workers) and not (process.asked or process.killed_elsewhere or searched)


@mutant
class ACopyOfAWorkerThatIsProbedCounts(Shadows):
    def _is_as_the_books_say(self, process: ProcessRecord) -> bool:
        if process.asked or process.killed_elsewhere or not process.workers:
            return False
        return all(work.kind != "setup" for work in process.work)


@mutant
class ACopyOfAProcessThatWasProbedCounts(Shadows):
    def _is_as_the_books_say(self, process: ProcessRecord) -> bool:
        killed_elsewhere, process.killed_elsewhere = process.killed_elsewhere, False
        try:
            return super()._is_as_the_books_say(process)
        finally:
            process.killed_elsewhere = killed_elsewhere


@mutant
class ShadowsAreLeftAtTheEnd(Shadows):
    def drop_all(self) -> None:
        self.behind.clear()
        self.orphans.clear()


@mutant
class AShadowTakenAtTheEndIsLeft(Shadows):
    def taken(self, event: m.ShadowTaken) -> None:
        if not self._books.closed:
            super().taken(event)


@mutant
class ALostShadowIsAsked(Shadows):
    def _lost(self, event: m.ShadowLost) -> None:
        pass


@mutant
class AWorkerThatMovedStaysInItsShadow(Shadows):
    def settled(self, worker: WorkerRecord, process: ProcessRecord | None) -> None:
        pass


@mutant
class AWorkerGoesToAnotherThanItsShadowsProcess(Shadows):
    def suits(self, worker: WorkerRecord, process: ProcessRecord) -> bool:
        return False


@mutant
class AProbedCopyGoesOnAlthoughThereIsAShadow(Dispatch):
    def refresh(self, worker: WorkerRecord) -> None:
        shadows, behind = self._shadows, dict(self._shadows.behind)
        shadows.behind.clear()
        try:
            super().refresh(worker)
        finally:
            shadows.behind.update(behind)


@mutant
class AShadowThatHoldsNobodyStays(Shadows):
    def settled(self, worker: WorkerRecord, process: ProcessRecord | None) -> None:
        with without(self._drop):
            super().settled(worker, process)


@mutant
class AWorkerLeavesWhatOnlyItsShadowKeeps(Shadows):
    def holds(self, worker: WorkerRecord, process: ProcessRecord) -> bool:
        return False


@mutant
class WhatADatasetHasChangedIsLostWithoutAWord(Returning):
    def _in_a_new_copy(self, worker: WorkerRecord) -> tuple[tuple[Redo, ...] | None, AsNew | None]:
        worker.done = []
        return super()._in_a_new_copy(worker)


@mutant
class ALossIsToldWhereNothingIsLost(Returning):
    def _in_a_new_copy(self, worker: WorkerRecord) -> tuple[tuple[Redo, ...] | None, AsNew | None]:
        worker.done = None
        worker.changed = worker.changed or worker.position > 0
        return super()._in_a_new_copy(worker)


@mutant
class OnlyWhatIsKnownToHaveChangedIsDoneAgain(Returning):
    def _in_a_new_copy(self, worker: WorkerRecord) -> tuple[tuple[Redo, ...] | None, AsNew | None]:
        worker.done = worker.done if worker.changed else []
        return super()._in_a_new_copy(worker)


@mutant
class WhatIsDoneAgainBeginsWithTheLastGenerators(Returning):
    def _in_a_new_copy(self, worker: WorkerRecord) -> tuple[tuple[Redo, ...] | None, AsNew | None]:
        redo, as_new = super()._in_a_new_copy(worker)
        return redo, as_new and as_new._replace(snapshot=worker.snapshot)


@mutant
class AnEpochIsNotDoneAgainInANewCopy(Answers):
    def _log(self, worker: WorkerRecord, done: Redo, seconds: float = 0.0) -> None:
        if done.epoch is None:
            super()._log(worker, done, seconds)
        else:
            self._shadows.log(worker, done)


@mutant
class TheLadderLosesWhatDatasetsHaveChanged(Fleet):
    def keeps_what_would_be_lost(self) -> bool:
        return False


@mutant
class WorkersWithChangesMove(Fleet):
    def _must_stay(self, worker: WorkerRecord) -> bool:
        process = self.processes[worker.host or m.INLINE]
        return self._shadows.holds(worker, process)
