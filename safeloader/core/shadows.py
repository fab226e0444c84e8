"""Shadows: sleeping copies of processes, with everything that their workers had changed in themselves.

A process copies itself between two tasks and says so, so a shadow holds the workers of its process as they stood after
all that the process had answered until then. What a worker finishes later is logged. When the process is lost, the
shadow makes a successor, which redoes what was logged. The shadow stays behind its successor, as it stood
behind the first process, until that one has a shadow of its own: whatever hurt the first may hurt the second, too.

A worker that leaves its process leaves its shadow as well: nobody logs for the shadow what another process does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safeloader.core import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.books import Books
    from safeloader.core.records import ProcessRecord, WorkerRecord
    from safeloader.core.state import Redo

__all__ = ["Shadow", "Shadows"]

_LONGEST = 100_000  # tasks that may have to be redone
_ATTEMPTS = 2  # successors that may be lost before their workers are where they were


@dataclass(slots=True, eq=False)
class Shadow:
    """A sleeping copy of a process. ``redo`` is what each worker in it has finished since."""

    id: int
    redo: dict[int, list[Redo]]
    failures: int = 0
    gone: bool = False  # it is known for what it told its last successor


class Shadows:
    """Which shadow stands behind which process."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.behind: dict[int, Shadow] = {}  # by the process that it would stand in for
        self.orphans: list[Shadow] = []  # their process is lost

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {m.ShadowTaken: self.taken, m.ShadowLost: self._lost}

    # ------------------------------------------------------------ coming and going

    def taken(self, event: m.ShadowTaken) -> None:
        """A process has a new shadow. It is of no use if a worker in it is not yet, or no longer, as the books say."""
        process = self._books.processes.get(event.process)
        if self._books.closed or process is None or not self._is_as_the_books_say(process):
            self._books.emit(m.DropShadow(event.shadow))
            return
        self._books.changing = True
        if process.replaced:  # it has something to lose by that
            process.retiring = process.replaced = False
            self._books.unbalanced = True
        self._drop(self.behind.pop(process.id, None))
        self.behind[process.id] = Shadow(event.shadow, {worker: [] for worker in process.workers})

    def _is_as_the_books_say(self, process: ProcessRecord) -> bool:
        """False while a worker in it is being set up, or has loaded what was only a probe."""
        if process.asked or process.killed_elsewhere or not process.workers:
            return False
        searched = any(self._books.workers[number].search is not None for number in process.workers)
        return not searched and all(work.kind in ("task", "resume") for work in process.work)

    def _lost(self, event: m.ShadowLost) -> None:
        """A shadow is gone. A successor that it has made, or was about to make, may need what was logged."""
        self.orphans = [shadow for shadow in self.orphans if shadow.id != event.shadow]
        for number, shadow in list(self.behind.items()):
            if shadow.id == event.shadow:
                shadow.gone = True
                if not self._books.processes[number].kept:
                    del self.behind[number]

    def _drop(self, shadow: Shadow | None) -> None:
        if shadow is not None and not shadow.gone:
            self._books.emit(m.DropShadow(shadow.id))

    def drop_all(self) -> None:
        """The loader ends."""
        for shadow in (*self.behind.values(), *self.orphans):
            self._drop(shadow)
        self.behind.clear()
        self.orphans.clear()

    # ------------------------------------------------------------ what has to be redone

    def log(self, worker: WorkerRecord, done: Redo) -> None:
        """A worker has finished something."""
        shadow = self.behind.get(worker.host) if worker.host is not None else None
        if shadow is None or worker.id not in shadow.redo:
            return
        redo = shadow.redo[worker.id]
        redo.append(done)
        if len(redo) > _LONGEST:
            del self.behind[worker.host]  # type: ignore[arg-type]
            self._drop(shadow)

    def claim(self, worker: WorkerRecord, process: ProcessRecord) -> tuple[Redo, ...] | None:
        """What the worker has to redo in a process that was made from its shadow; None if it is not in there."""
        if worker.id not in process.kept:
            return None
        process.kept.discard(worker.id)
        shadow = self.behind.get(process.id)
        return None if shadow is None else tuple(shadow.redo[worker.id])

    def again(self, process: ProcessRecord) -> int | None:
        """How many batches a successor of a lost process loads again, and compares; None if it need not."""
        found = [redo for shadow in self.orphans for number, redo in shadow.redo.items() if number in process.workers]
        return sum(bool(done.digest) for redo in found for done in redo) or None

    def distrust(self, worker: WorkerRecord) -> None:
        """What was done again in a successor did not come out as before: the shadow holds the worker no more."""
        for number, shadow in list(self.behind.items()):
            if shadow.redo.pop(worker.id, None) is not None and not shadow.redo:
                self._drop(self.behind.pop(number))

    # ------------------------------------------------------------ faults

    def process_lost(self, process: ProcessRecord, failed_setting_up: bool) -> None:
        """A process is gone. Its shadow waits for a successor to be wanted, unless successors fail."""
        shadow = self.behind.pop(process.id, None)
        if shadow is None:
            return
        shadow.failures = shadow.failures + 1 if process.kept or failed_setting_up else 0
        stuck = process.cause == "failed_start"  # so it is the shadow that does not answer
        useless = process.asked or self._books.closed or stuck or shadow.gone or shadow.failures >= _ATTEMPTS
        if useless:
            self._drop(shadow)
        else:
            self.orphans.append(shadow)

    def next(self) -> Shadow | None:
        """One that a successor can be made from, for a worker that has no home."""
        workers = self._books.workers
        return next((s for s in self.orphans if any(workers[i].host is None for i in s.redo)), None)

    def stand_behind(self, shadow: Shadow, process: ProcessRecord) -> None:
        """A process is started from a shadow."""
        self.orphans.remove(shadow)
        self.behind[process.id] = shadow
        process.kept = set(shadow.redo)

    def suits(self, worker: WorkerRecord, process: ProcessRecord) -> bool:
        """True if the process was made from the worker's shadow, and has not given the worker up."""
        return worker.id in process.kept

    def holds(self, worker: WorkerRecord, process: ProcessRecord) -> bool:
        """True if the worker lives in a process, and in its shadow."""
        shadow = self.behind.get(process.id)
        return shadow is not None and not shadow.gone and worker.id in shadow.redo

    def awaits(self, worker: WorkerRecord) -> bool:
        """True if a shadow holds the worker, which has no home."""
        return any(worker.id in shadow.redo for shadow in (*self.orphans, *self.behind.values()))

    def holds_one_of(self, process: ProcessRecord) -> bool:
        """True if a shadow can make a successor of a process that is lost."""
        return any(worker in shadow.redo for shadow in self.orphans for worker in process.workers)

    def settled(self, worker: WorkerRecord, process: ProcessRecord | None) -> None:
        """A worker has found a home, or leaves one on purpose: shadows of other processes need not hold it any more."""
        for number, shadow in list(self.behind.items()):
            if (process is None or number != process.id) and shadow.redo.pop(worker.id, None) is not None:
                self._books.processes[number].kept.discard(worker.id)
                if not shadow.redo:
                    self._drop(self.behind.pop(number))
        for shadow in list(self.orphans):
            if shadow.redo.pop(worker.id, None) is not None and not shadow.redo:
                self.orphans.remove(shadow)
                self._drop(shadow)

    # ------------------------------------------------------------ invariants, for tests

    def validate(self) -> None:
        """Raise AssertionError if a shadow stands behind nobody, or holds a worker that lives elsewhere."""
        for number, shadow in self.behind.items():
            process = self._books.processes.get(number)
            assert process is not None, f"shadow {shadow.id} stands behind process {number}, which is gone"
            for worker in shadow.redo:
                assert self._books.workers[worker].host in (number, None), f"shadow {shadow.id} holds worker {worker}"
        for shadow in self.orphans:
            assert all(self._books.workers[i].host is None for i in shadow.redo), f"shadow {shadow.id} is of no use"
