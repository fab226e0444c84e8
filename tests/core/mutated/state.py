"""Faults of the state that another program goes on from."""

from __future__ import annotations

from safeloader.core import messages as m
from safeloader.core.consumer import ConsumerProgress
from safeloader.core.records import Resume, WorkerRecord
from safeloader.core.restoring import forget, replayed
from safeloader.core.schedule import Schedule
from safeloader.core.state import DatasetSnapshot, State, WorkerCursor

from . import instead_of, mutant


@mutant
class WhatWasPrefetchedCountsAsGot(ConsumerProgress):
    def _standing(self, worker: WorkerRecord) -> WorkerCursor:
        return super()._standing(worker)._replace(snapshot=worker.snapshot)


@mutant
class WhatWasHandedOverCountsAsGot(ConsumerProgress):
    def _requested(self, event: m.StateRequested) -> None:
        if not self._books.closed:
            self.confirm()
        super()._requested(event)


@mutant
class AStateBeforeAllHaveBegunTheEpoch(ConsumerProgress):
    def advance(self) -> None:
        self.wanted = False
        self._books.emit(m.GiveState(self.state()))


@mutant
class WhoIsBehindInTheTrainerIsWaitedFor(ConsumerProgress):
    def advance(self) -> None:
        if not any(isinstance(item, Resume) for w in self._books.workers for item in (*w.waiting, *w.sent)):
            super().advance()


@mutant
class AMarkOfWhatWasNotGot(ConsumerProgress):
    def _standing(self, worker: WorkerRecord) -> WorkerCursor:
        mark = worker.marks[-1] if worker.marks else None
        return super()._standing(worker)._replace(mark=mark, replay=replayed(worker, mark, worker.got))


@instead_of(forget)
def the_log_before_the_first_mark_is_forgotten(worker: WorkerRecord) -> None:
    forget(worker)
    for _ in range(len(worker.log) - (worker.position - worker.marks[0].position)):
        worker.log.popleft()


@instead_of(replayed)
def too_much_is_replayed(
    worker: WorkerRecord, mark: DatasetSnapshot | None, until: int
) -> tuple[tuple[object, tuple[int, ...]], ...]:
    return replayed(worker, mark, worker.position)


@mutant
class TheTurnIsNotRestored(Schedule):
    def restore(self, state: State) -> None:
        super().restore(state._replace(turn=self.turn))


@mutant
class DrawsAreNotCountedOn(Schedule):
    def restore(self, state: State) -> None:
        super().restore(state)
        self._first_of_epoch = 0


@mutant
class NoStateAfterTheEnd(ConsumerProgress):
    def close(self) -> None:
        super().close()
        self._final.pop(True, None)


@mutant
class TheEndOfAnEpochIsNotKept(ConsumerProgress):
    def end(self) -> None:
        pass


@mutant
class WhatLeftTheQueueIsGotInTheNextEpoch(ConsumerProgress):
    def begin(self) -> None:
        left = list(self._schedule.left)
        super().begin()
        self._schedule.left.extend(left)
