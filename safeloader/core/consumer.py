"""How far the consumer has come: the state that another program could go on from.

A batch counts as got when the consumer comes back for the next one, or says so when it asks for the state: an
interrupt may have come between a batch and its consumer. Each finished task remembers where it left its worker, so that
nothing is computed before somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.records import Resume, Task, WorkerRecord
from safeloader.core.restoring import replayed
from safeloader.core.state import DIGEST, KEPT, DatasetSnapshot, PlannedTask, State, WorkerCursor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.supervisor import Supervisor

__all__ = ["ConsumerProgress"]


class ConsumerProgress:
    """What the consumer got."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._sup = supervisor
        self._indexed = supervisor.settings.indexed
        self.wanted = False  # somebody waits for the state
        self.left: list[tuple[Task, bool]] = []  # left the queue since the consumer came last, and whether delivered
        self._end_told = False
        self._over = False
        self._batch = 0
        self._turn = 0
        self._last: Task | PlannedTask | None = None
        self._final: dict[bool, State] = {}  # when the loader ended: by whether its last batch was received

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {m.StateRequested: self._requested, m.WorkerMarked: self._marked}

    # ------------------------------------------------------------ what happens

    def begin(self) -> None:
        """A new epoch."""
        self.left.clear()
        self._end_told = self._over = False
        self._batch, self._turn, self._last = 0, 0, None

    def end(self) -> None:
        """The consumer is told that the epoch is over."""
        self._end_told = True

    def confirm(self) -> None:
        """The consumer has got what was handed over."""
        for task, delivered in self.left:
            worker = self._sup.workers[task.worker]
            if task.place is not None:
                worker.got, worker.got_snapshot = task.place, task.snapshot
                if worker.marks:
                    _forget(worker)
            worker.got_end = worker.got_end or task.last
            self._last = task
            if self._indexed or delivered:
                self._batch += 1
                self._turn = (task.worker + 1) % len(self._sup.workers)
        self.left.clear()
        self._over = self._end_told

    # ------------------------------------------------------------ what datasets say of themselves

    def _marked(self, event: m.WorkerMarked) -> None:
        worker = self._sup.workers[event.worker]
        if worker.host == event.process and event.process in self._sup.fleet.processes:
            self.mark(worker, event.content)

    @staticmethod
    def mark(worker: WorkerRecord, content: object) -> None:
        """A worker's dataset told its state, after all that the worker has finished."""
        mark = DatasetSnapshot(worker.position, content, worker.snapshot)
        if worker.marks and worker.marks[-1].position >= mark.position:
            worker.marks.pop()
        worker.marks.append(mark)
        _forget(worker)

    # ------------------------------------------------------------ the state

    def _requested(self, event: m.StateRequested) -> None:
        if self._sup.closed:
            self._sup.emit(m.GiveState(self._final.get(event.received)))
            return
        if event.received:
            self.confirm()
        self.wanted = True

    def advance(self) -> None:
        """Tell the state once every worker has begun this epoch; one that waits in the trainer is made to."""
        behind = [worker for worker in self._sup.workers if _is_behind(worker)]
        if not behind:
            self.wanted = False
            self._sup.emit(m.GiveState(self.state()))
        for worker in behind:
            if worker.host == m.INLINE:
                self._sup.traffic.load_inline(worker)
                return

    def close(self) -> None:
        """The loader ends: keep where the consumer stands, for whoever asks later."""
        if self._sup.epoch < 0 or any(map(_is_behind, self._sup.workers)):
            if self.wanted:
                self._sup.emit(m.GiveState(None))
            return
        self._final[False] = self.state()
        if self.wanted:
            self._sup.emit(m.GiveState(self._final[False]))
        self.confirm()
        self._final[True] = self.state()

    def state(self) -> State:
        """Where the consumer stands."""
        ledger, last = self._sup.ledger, self._last
        tasks = [*(task for task, _ in self.left), *ledger.queue] if self._indexed else []
        return State(
            epoch=ledger.epoch,
            batch=self._batch,
            drawn=ledger.drawn if self._indexed else self._batch,
            turn=ledger.turn if self._indexed else self._turn,
            over=self._over,
            last=PlannedTask(last.batch, last.worker, last.indices) if last is not None and self._indexed else None,
            planned=tuple(PlannedTask(task.batch, task.worker, task.indices, task.skip) for task in tasks),
            workers=tuple(self._standing(worker) for worker in self._sup.workers),
            slowest=self._sup.watch.deadlines.learned,
            exhausted=ledger.plan_over,
        )

    def _standing(self, worker: WorkerRecord) -> WorkerCursor:
        marks = [mark for mark in worker.marks if mark.position <= worker.got]
        mark = marks[-1] if marks else None
        if self._over and mark is None and not self._sup.settings.stateful:  # nothing of this epoch matters any more
            return WorkerCursor(0, ended=True, epoch_snapshot=None, snapshot=worker.got_snapshot)
        replay = replayed(worker, mark, worker.got)
        digests = _digests(worker)
        return WorkerCursor(
            worker.got, worker.got_end, worker.epoch_snapshot, worker.got_snapshot, mark, replay, digests
        )

    def restore(self, state: State) -> None:
        """Begin where another loader stood."""
        self._batch, self._turn, self._last = state.batch, state.turn, state.last
        self._over = self._end_told = state.over
        for worker, standing in zip(self._sup.workers, state.workers, strict=True):
            worker.epoch, worker.epoch_snapshot = state.epoch, standing.epoch_snapshot
            worker.position = worker.got = standing.position
            worker.snapshot = worker.got_snapshot = standing.snapshot
            worker.exhausted = worker.ended = worker.got_end = standing.ended
            worker.log.extend(standing.replay)
            worker.digests += standing.digests
            worker.first = standing.mark
            if standing.mark is not None:
                worker.marks.append(standing.mark)


def _digests(worker: WorkerRecord) -> bytes:
    """Of the last of the tasks that the consumer got."""
    end = max(len(worker.digests) - DIGEST * (worker.position - worker.got), 0)
    return bytes(worker.digests[max(end - DIGEST * KEPT, 0) : end])


def _forget(worker: WorkerRecord) -> None:
    """Drop marks, and what was logged, from before the newest mark that the consumer has reached."""
    while len(worker.marks) > 1 and worker.marks[1].position <= worker.got:
        worker.marks.popleft()
    if worker.marks[0].position <= worker.got:
        for _ in range(len(worker.log) - (worker.position - worker.marks[0].position)):
            worker.log.popleft()


def _is_behind(worker: WorkerRecord) -> bool:
    """True if it has not begun this epoch."""
    return any(isinstance(item, Resume) for item in (*worker.waiting, *worker.sent))
