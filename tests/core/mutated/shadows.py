"""Faults of shadows: which there are, what they hold, and who goes on from them."""

from __future__ import annotations

from safeloader.core import messages as m
from safeloader.core.records import Process, Task, Worker
from safeloader.core.shadows import Shadow, Shadows
from safeloader.core.state import Redo
from safeloader.core.traffic import Traffic

from . import mutant, without


@mutant
class AShadowIsNotUsed(Shadows):
    def next(self) -> Shadow | None:
        return None


@mutant
class WhatWasDoneSinceAShadowIsNotRedone(Shadows):
    def claim(self, worker: Worker, process: Process) -> tuple[Redo, ...] | None:
        redo = super().claim(worker, process)
        return redo and redo[1:]


@mutant
class AnEpochIsNotRedone(Shadows):
    def log(self, worker: Worker, item: Task | int, digest: bytes = b"") -> None:
        if not isinstance(item, int):
            super().log(worker, item, digest)


@mutant
class ANewShadowDoesNotReplaceTheOld(Shadows):
    def taken(self, event: m.ShadowTaken) -> None:
        process = self._sup.fleet.processes.get(event.process)
        if process is not None and self._is_as_the_books_say(process):
            self.behind.pop(event.process, None)
        super().taken(event)


@mutant
class ACopyOfAWorkerThatIsNotReadyCounts(Shadows):
    def _is_as_the_books_say(self, process: Process) -> bool:
        hunted = any(self._sup.workers[number].hunt is not None for number in process.workers)
        return bool(process.workers) and not (process.asked or process.innocent or hunted)


@mutant
class ACopyOfAWorkerThatIsProbedCounts(Shadows):
    def _is_as_the_books_say(self, process: Process) -> bool:
        if process.asked or process.innocent or not process.workers:
            return False
        return all(work.kind != "setup" for work in process.work)


@mutant
class ACopyOfAProcessThatWasProbedCounts(Shadows):
    def _is_as_the_books_say(self, process: Process) -> bool:
        innocent, process.innocent = process.innocent, False
        try:
            return super()._is_as_the_books_say(process)
        finally:
            process.innocent = innocent


@mutant
class ShadowsAreLeftAtTheEnd(Shadows):
    def drop_all(self) -> None:
        self.behind.clear()
        self.orphans.clear()


@mutant
class AShadowTakenAtTheEndIsLeft(Shadows):
    def taken(self, event: m.ShadowTaken) -> None:
        if not self._sup.closed:
            super().taken(event)


@mutant
class ALostShadowIsAsked(Shadows):
    def _lost(self, event: m.ShadowLost) -> None:
        pass


@mutant
class AWorkerThatMovedStaysInItsShadow(Shadows):
    def settled(self, worker: Worker, process: Process) -> None:
        pass


@mutant
class AWorkerGoesToAnotherThanItsShadowsProcess(Shadows):
    def suits(self, worker: Worker, process: Process) -> bool:
        return False


@mutant
class AProbedCopyGoesOnAlthoughThereIsAShadow(Traffic):
    def _refresh(self, worker: Worker) -> None:
        shadows, behind = self._sup.shadows, dict(self._sup.shadows.behind)
        shadows.behind.clear()
        try:
            super()._refresh(worker)
        finally:
            shadows.behind.update(behind)


@mutant
class AShadowThatHoldsNobodyStays(Shadows):
    def settled(self, worker: Worker, process: Process) -> None:
        with without(self._drop):
            super().settled(worker, process)


@mutant
class AWorkerLeavesWhatOnlyItsShadowKeeps(Shadows):
    def holds(self, worker: Worker, process: Process) -> bool:
        return False
