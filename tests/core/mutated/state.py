"""Faults of the state that another program goes on from."""

from __future__ import annotations

from safeloader.core import messages as m
from safeloader.core import progress
from safeloader.core.ledger import Ledger
from safeloader.core.progress import Progress
from safeloader.core.records import Resume, Worker
from safeloader.core.returning import replayed
from safeloader.core.state import Mark, Standing, State

from . import instead_of, mutant

_forget = progress._forget


@mutant
class WhatWasPrefetchedCountsAsGot(Progress):
    def _standing(self, worker: Worker) -> Standing:
        return super()._standing(worker)._replace(snapshot=worker.snapshot)


@mutant
class WhatWasHandedOverCountsAsGot(Progress):
    def _requested(self, event: m.StateRequested) -> None:
        if not self._sup.closed:
            self.confirm()
        super()._requested(event)


@mutant
class AStateBeforeAllHaveBegunTheEpoch(Progress):
    def advance(self) -> None:
        self.wanted = False
        self._sup.emit(m.TellState(self.state()))


@mutant
class WhoIsBehindInTheTrainerIsWaitedFor(Progress):
    def advance(self) -> None:
        if not any(isinstance(item, Resume) for w in self._sup.workers for item in (*w.waiting, *w.sent)):
            super().advance()


@mutant
class AMarkOfWhatWasNotGot(Progress):
    def _standing(self, worker: Worker) -> Standing:
        mark = worker.marks[-1] if worker.marks else None
        return super()._standing(worker)._replace(mark=mark, replay=replayed(worker, mark, worker.got))


@instead_of(_forget)
def the_log_before_the_first_mark_is_forgotten(worker: Worker) -> None:
    _forget(worker)
    for _ in range(len(worker.log) - (worker.position - worker.marks[0].position)):
        worker.log.popleft()


@instead_of(replayed)
def too_much_is_replayed(worker: Worker, mark: Mark | None, until: int) -> tuple[tuple[object, tuple[int, ...]], ...]:
    return replayed(worker, mark, worker.position)


@mutant
class TheTurnIsNotRestored(Ledger):
    def restore(self, state: State) -> None:
        super().restore(state._replace(turn=self.turn))


@mutant
class DrawsAreNotCountedOn(Ledger):
    def restore(self, state: State) -> None:
        super().restore(state)
        self._first_of_epoch = 0


@mutant
class NoStateAfterTheEnd(Progress):
    def close(self) -> None:
        super().close()
        self._final.pop(True, None)
