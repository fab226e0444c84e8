"""Faults in how a worker comes back to its place."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from safeloader.core import messages as m
from safeloader.core.answers import Answers
from safeloader.core.consumer import ConsumerProgress
from safeloader.core.dispatch import Dispatch
from safeloader.core.quarantine import Quarantine
from safeloader.core.records import Task, WorkerRecord
from safeloader.core.restoring import Returning
from safeloader.core.state import AsNew, DatasetSnapshot, Redo, State, WorkerCursor
from tests.core.mutated import mutant


@mutant
class WhatEarlierEpochsLeftIsMissing(Returning):
    def _ways(self, worker: WorkerRecord) -> list[DatasetSnapshot | AsNew | None]:
        return [way for way in super()._ways(worker) if not isinstance(way, AsNew)]


@mutant
class AllEpochsAreTakenForThisOne(Returning):
    def host(self, worker: WorkerRecord, process: int, redo: tuple[Redo, ...] | None = None) -> m.HostWorker:
        command = super().host(worker, process, redo)
        return command._replace(as_new=command.as_new and command.as_new._replace(epoch=worker.epoch))


@mutant
class AllEpochsAreDoneAgainAlthoughOneWasBrokenOff(Quarantine):
    def _fail(self, task: Task, positions: tuple[int, ...], unresolved: bool = False) -> None:
        worker = self._books.workers[task.worker]
        done = worker.done
        super()._fail(task, positions, unresolved)
        worker.done = done


@mutant
class WhatIsLoadedAgainIsNotCompared(Returning):
    def host(self, worker: WorkerRecord, process: int, redo: tuple[Redo, ...] | None = None) -> m.HostWorker:
        return super().host(worker, process, redo)._replace(digests=b"")


@mutant
class ADatasetIsBelieved(Returning):
    def _ways(self, worker: WorkerRecord) -> list[DatasetSnapshot | AsNew | None]:
        return [*([worker.marks[-1]] if worker.marks else []), *super()._ways(worker)]


@mutant
class AWayThatIsWrongIsTheLast(Returning):
    def missed(self, worker: WorkerRecord, event: m.WorkerDiverged, redone: bool) -> bool:
        worker.way = 99
        return super().missed(worker, event, redone)


@mutant
class PolicyIsNotAskedWhatToDoAboutIt(Returning):
    def missed(self, worker: WorkerRecord, event: m.WorkerDiverged, redone: bool) -> bool:
        settings = self._books.settings
        other = replace(settings, on_divergence="raise" if settings.on_divergence == "warn" else "warn")
        with mock.patch.object(self._books, "settings", other):
            return super().missed(worker, event, redone)


@mutant
class WhoBeginsAnewIsNotToldOf(Returning):
    def host(self, worker: WorkerRecord, process: int, redo: tuple[Redo, ...] | None = None) -> m.HostWorker:
        command = super().host(worker, process, redo)
        worker.checking = bool(command.mark or command.digests or redo)
        return command


@mutant
class WhoWentWrongOnceIsTakenAsItComes(Returning):
    def arrived(self, worker: WorkerRecord, compared: int, redone: bool) -> None:
        super().arrived(worker, compared, redone)
        worker.taken = True


@mutant
class TasksAreSentToWhoIsNotAtItsPlace(Dispatch):
    def feed(self, worker: WorkerRecord) -> None:
        checking, worker.checking = worker.checking, False
        super().feed(worker)
        worker.checking = checking


@mutant
class ARaisedTaskHasNoDigest(Answers):
    def _task_raised(self, event: m.TaskRaised) -> None:
        super()._task_raised(event._replace(digest=b""))


@mutant
class DigestsOfWhatWasNotGotGoAlong(ConsumerProgress):
    def _standing(self, worker: WorkerRecord) -> WorkerCursor:
        standing = super()._standing(worker)
        return standing._replace(digests=bytes(worker.digests)) if standing.digests else standing


@mutant
class AStateHasWhatWasDoneAheadOfTheConsumer(ConsumerProgress):
    def _changes(self, worker: WorkerRecord) -> tuple[bool, AsNew | None, tuple[Redo, ...] | None]:
        changed, as_new, done = super()._changes(worker)
        return changed, as_new, tuple(worker.done or ()) if done else done


@mutant
class WhatADatasetHadChangedIsNotDoneAgainElsewhere(ConsumerProgress):
    def restore(self, state: State) -> None:
        super().restore(state._replace(workers=tuple(cursor._replace(changed=False) for cursor in state.workers)))
