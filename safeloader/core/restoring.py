"""How a worker comes back to its place in another process, in an order of trust.

A dataset's own state is only the second best witness: the most used ones are not exact. So an iterable dataset is read
again from where this reading of the epoch began, and each batch is compared with the one that was delivered; its own
state is taken where it is known to be exact. What was loaded since that state is compared as well, and a way that
turns out wrong is not taken again: the next one leads further back. Where none leads to what was delivered, policy
says whether the loader ends or goes on with what comes. From the second epoch on, earlier ones may have left something
in it: the first way is then to do all again from the first epoch on (`new_copy`), while that is known.

A map-style dataset that tells a state is brought to its last one; what it loaded since is loaded again, and compared.
One that tells none is made anew, and does again what it may have been changed by (`new_copy`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core import new_copy
from safeloader.core.state import DIGEST, AsNew, DatasetSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.core.books import Books
    from safeloader.core.records import WorkerRecord
    from safeloader.core.shadows import Shadows
    from safeloader.core.state import Redo

__all__ = ["Returning", "forget", "marked", "replayed"]


class Returning:
    """Brings workers to their places.

    Args:
        books: the shared records.
        shadows: which copies of processes there are.
        give_up: ends the loader with an error.
    """

    def __init__(self, books: Books, shadows: Shadows, give_up: Callable[[str, object, str], None]) -> None:
        self._books = books
        self._shadows = shadows
        self._give_up = give_up
        self._indexed = books.settings.indexed
        self._exact = books.settings.exact_state
        self._made_anew = self._indexed and not books.settings.stateful

    def begin(self, worker: WorkerRecord) -> None:
        """It begins a new epoch."""
        worker.digests.clear()
        worker.first, worker.way, worker.taken, worker.begun = None, 0, False, True

    def host(self, worker: WorkerRecord, process: int, redo: tuple[Redo, ...] | None = None) -> m.HostWorker:
        """What leads the worker to its place. Until it is there, nothing is sent to it. ``redo``: it is in the process
        as its shadow had it, and that goes before all other ways."""
        if redo is not None:
            worker.checking = len(redo) > 0
            return m.HostWorker(
                process, worker.id, worker.epoch, worker.position, worker.exhausted,
                worker.epoch_snapshot, worker.snapshot, redo=redo,
            )  # fmt: skip
        as_new = None
        if self._made_anew and worker.search is None:
            redo, as_new = self._in_a_new_copy(worker)
        mark, again = self._way(worker), self._again(worker)
        if isinstance(mark, AsNew):
            redo, as_new, mark, again = tuple(worker.done or ()), mark, None, 0
        replay = replayed(worker, mark, worker.position) if self._indexed else ()
        digests = bytes(worker.digests[-DIGEST * again :]) if again else b""
        anew = worker.way > 0 or (worker.begun and not self._indexed)  # what earlier epochs left in it may be missing
        worker.checking = again > 0 or mark is not None or anew
        return m.HostWorker(
            process, worker.id, worker.epoch, worker.position, worker.exhausted,
            worker.epoch_snapshot, worker.snapshot, mark, replay, digests, worker.lenient, redo, as_new,
        )  # fmt: skip

    def changed(self, event: m.WorkerChanged) -> None:
        """What a worker's dataset holds is no longer what a new copy of it would. One that tells its state is brought
        to that, and compared."""
        worker = self._books.workers[event.worker]
        if worker.host == event.process and not self._books.settings.stateful:
            worker.changed = self._books.changing = True

    def unchanged(self, event: m.WorkerUnchanged) -> None:
        """What a worker's dataset holds is what a new copy of it would."""
        worker = self._books.workers[event.worker]
        if worker.host == event.process and self._made_anew:
            worker.unchanged = True

    def _in_a_new_copy(self, worker: WorkerRecord) -> tuple[tuple[Redo, ...] | None, AsNew | None]:
        """What is done again in a new copy of a worker's dataset, and from where on; None where that is nothing."""
        worker.unchanged = False
        if worker.done is None and worker.changed:
            self._report(worker, "lost", worker.position, 0, "", "goes on", "dataset")
        if not worker.done:
            worker.changed = False
            new_copy.begin(worker)
            return None, None
        return tuple(worker.done), worker.as_new

    def _ways(self, worker: WorkerRecord) -> list[DatasetSnapshot | AsNew | None]:
        """The states to begin with, best first; AsNew: as it was in the first epoch; None: as it is at first."""
        ways: list[DatasetSnapshot | AsNew | None] = []
        if worker.marks and (self._exact or self._indexed):
            ways.append(worker.marks[-1])
        if worker.begun and not self._indexed and worker.done is not None:
            ways.append(worker.as_new)
        if worker.first is not None and not self._indexed and worker.first not in ways:
            ways.append(worker.first)
        if not self._indexed or len(worker.log) == worker.position:
            ways.append(None)
        return ways

    def _way(self, worker: WorkerRecord) -> DatasetSnapshot | AsNew | None:
        ways = self._ways(worker)
        return ways[min(worker.way, len(ways) - 1)] if ways else None

    def _again(self, worker: WorkerRecord) -> int:
        """How many batches are loaded again."""
        mark = self._way(worker)
        if isinstance(mark, AsNew):
            return sum(bool(done.digest) for done in worker.done or ())
        if self._indexed:
            return len(replayed(worker, mark, worker.position))
        return worker.position - (mark.position if mark is not None else 0)

    def again(self, workers: list[WorkerRecord]) -> int | None:
        """How many batches are loaded again for workers that lost their process; None where it is known that none
        has to be: a map-style dataset's batches are loaded by their indices."""
        if self._made_anew:
            return None
        return sum([self._again(worker) for worker in workers])

    # ------------------------------------------------------------ what came of it

    def arrived(self, worker: WorkerRecord, compared: int, redone: bool) -> None:
        """It stands at its place, or where policy takes what comes."""
        if redone:
            if compared and not worker.taken:
                self._report(worker, "same", worker.position, compared, "", "goes on", "shadow")
            worker.checking = False
            return
        believed = self._exact and self._way(worker) is not None
        if worker.checking and not worker.taken and (compared or not believed):
            self._report(worker, "same" if compared else "unknown", worker.position, compared, "", "goes on")
        worker.checking = worker.taken = False

    def missed(self, worker: WorkerRecord, event: m.WorkerDiverged, redone: bool) -> bool:
        """It does not. True if it is to be set up again."""
        worker.checking = False
        if redone:
            self._report(worker, event.how, event.at, 0, event.detail, "reads again", "shadow")
            self._shadows.distrust(worker)
            return True
        if worker.way + 1 < len(self._ways(worker)):
            self._report(worker, event.how, event.at, 0, event.detail, "reads again")
            if isinstance(self._way(worker), AsNew):
                worker.done = None  # it is no way any more, nor will it be
            else:
                worker.way += 1
            return True
        if self._books.settings.on_divergence == "raise" or event.how == "refused":
            said = self._report(worker, event.how, event.at, 0, event.detail, "raises")
            self._give_up("diverged", said, "")
            return False
        self._report(worker, event.how, event.at, 0, event.detail, "goes on")
        worker.taken, worker.done = True, worker.done if self._indexed else None
        worker.digests.clear()
        return True

    def _report(
        self, worker: WorkerRecord, outcome: str, at: int, compared: int, detail: str, action: str, source: str = ""
    ) -> m.ReportReplay:
        way, of = self._way(worker), worker.position
        if not source:
            source = "beginning" if way is None else "first" if isinstance(way, AsNew) else "state"
        if source == "first":
            of = self._again(worker)
        said = m.ReportReplay(worker.id, worker.epoch, outcome, source, at, of, compared, detail, action)
        self._books.emit(said)
        return said


def replayed(
    worker: WorkerRecord, mark: DatasetSnapshot | None, until: int
) -> tuple[tuple[object, tuple[int, ...]], ...]:
    """What was finished after a mark and before a position."""
    first = worker.position - len(worker.log)  # the position of the first task in the log
    begin = first if mark is None else mark.position
    return tuple(worker.log)[begin - first : until - first]


def marked(worker: WorkerRecord, content: object) -> None:
    """A worker's dataset told its state, after all that the worker has finished."""
    mark = DatasetSnapshot(worker.position, content, worker.snapshot)
    if worker.marks and worker.marks[-1].position >= mark.position:
        worker.marks.pop()
    worker.marks.append(mark)
    forget(worker)


def forget(worker: WorkerRecord) -> None:
    """Drop marks, and what was logged, from before the newest mark that the consumer has reached."""
    while len(worker.marks) > 1 and worker.marks[1].position <= worker.got:
        worker.marks.popleft()
    if worker.marks[0].position <= worker.got:
        for _ in range(len(worker.log) - (worker.position - worker.marks[0].position)):
            worker.log.popleft()
