"""Where the time of a loader goes: the consumer's waits, the stages of each worker's batches, and what faults cost.

::

    process: taken ── load ──▶ collated ── collate ──▶ finished
    trainer:                              decode ── transfer ──▶ delivered;   asks ── wait ──▶ got

What of the wait is not the sampler's is counted apart: it is what the loader itself takes. A batch costs three clock
readings, a number and a tuple here, which are counted in blocks. The watch (``observe.stall``) reads the pulse from its
own thread; nobody but the consumer's writes.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.observe.spread import Quantiles, Spread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READY", "STAGES", "Costs", "Lost", "Pulse", "Timings", "Waits", "WorkerTimes"]

READY = 0.001
"""Seconds: a batch that came sooner was ready when it was asked for."""
STAGES = ("load", "collate", "transfer", "wait")
"""The stages of a batch, in order."""

_BLOCK = 512
_MOST_PENDING = 4096
_KEPT = 1000  # stretches; older ones are over for good


class Waits(NamedTuple):
    """How the consumer has waited for batches.

    Attributes:
        batches: batches asked for.
        seconds: seconds waited for them in all: exposed data-loading time.
        ready: share of batches that were there when they were asked for.
        p50: half of the batches came within so many seconds (to within a fifth, as p95 and p99).
        p95: nineteen of twenty did.
        p99: ninety-nine of a hundred did.
    """

    batches: int = 0
    seconds: float = 0.0
    ready: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


class Pulse:
    """One loader's consumer.

    Attributes:
        waiting: it waits for a batch.
        busy: it is between the first and the last batch of an epoch.
        since: monotonic seconds of its last step.
        thread: ident of its thread.
        stalled: where a stall has been told: what to call with its length in seconds when it is over. Held weakly: who
            is told holds the pulse, and a loader is gone when its last user is, with no help of the garbage collector.
    """

    __slots__ = (
        "__weakref__", "_counting", "_ready", "_seconds", "_spread", "_uncounted", "busy", "since", "stalled",
        "thread", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.waiting = False
        self.busy = False
        self.since = monotonic()
        self.thread = 0
        self.stalled: Callable[[], Callable[[float], None] | None] | None = None
        self._seconds = 0.0
        self._ready = 0
        self._spread = Spread()
        self._uncounted: deque[float] = deque()
        self._counting = threading.RLock()  # a signal handler may ask for the figures

    def asks(self) -> None:
        """The consumer asks for a batch."""
        now = monotonic()
        if self.stalled is not None:
            self._moves(now)
        self.since = now
        self.waiting = self.busy = True
        if not self.thread:
            self.thread = threading.get_ident()

    def got(self) -> float:
        """It has one. Returns the seconds that it waited."""
        now = monotonic()
        if self.stalled is not None:
            self._moves(now)
        waited = now - self.since
        self.since = now
        self.waiting = False
        self._seconds += waited
        self._ready += waited < READY
        self._uncounted.append(waited)
        if len(self._uncounted) >= _BLOCK:
            self._count()
        return waited

    def ended(self) -> None:
        """There is none left, or it ended with an error."""
        now = monotonic()
        if self.stalled is not None:
            self._moves(now)
        self.since = now
        self.waiting = self.busy = False
        self.thread = 0

    def _moves(self, now: float) -> None:
        told, self.stalled = self.stalled, None
        tell = None if told is None else told()
        if tell is not None:
            tell(now - self.since)

    def _count(self) -> None:
        with self._counting:
            self._spread.add(*[self._uncounted.popleft() for _ in range(len(self._uncounted))])

    def waits(self) -> Waits:
        """The figures so far."""
        self._count()
        asked = self._spread.count
        if not asked:
            return Waits()
        return Waits(asked, self._seconds, self._ready / asked, *self._spread.quantiles())


class WorkerTimes(NamedTuple):
    """What one worker's batches took.

    Attributes:
        worker: its id.
        batches: how many.
        load: from when a process took a batch until its samples were there.
        collate: until it lay in shared memory.
        transfer: what the trainer spent on decoding it, and on pinning where that is asked for.
        wait: what the consumer waited for it.
    """

    worker: int
    batches: int
    load: Quantiles
    collate: Quantiles
    transfer: Quantiles
    wait: Quantiles

    def as_dict(self) -> dict[str, Any]:
        """As dicts and numbers alone, fit for JSON."""
        stages = {stage: getattr(self, stage)._asdict() for stage in STAGES}
        return {"worker": self.worker, "batches": self.batches, **stages}


class Costs(NamedTuple):
    """What a batch of a loader costs, in seconds.

    Attributes:
        batches: how many were counted.
        making: what a worker takes to load and collate one: the mean, or what nineteen of twenty take, if that is more.
        fetching: what getting one costs the consumer in waiting, besides the sampler and decoding: the mean, for which
            the longest waits, one in twenty (starts, faults), count as none.
    """

    batches: int = 0
    making: float = 0.0
    fetching: float = 0.0


class Timings:
    """Keeps the stages of one loader's batches. Written by the consumer's thread; may be read from any.

    Attributes:
        drawn: seconds that the sampler has taken since the consumer has asked; who asks it adds them.
    """

    def __init__(self) -> None:
        self._pending: dict[int, tuple[int, float, float | None]] = {}
        self._due: tuple[int, float, float | None, float] | None = None
        self.drawn = 0.0
        self._besides = Spread()
        self._block: list[tuple[int, float, float | None, float, float, float]] = []
        self._spreads: dict[int, tuple[Spread, Spread, Spread, Spread]] = {}
        self._counting = threading.RLock()  # a signal handler may ask for the figures

    def loaded(self, task: int, worker: int, load: float, collate: float | None) -> None:
        """A batch was loaded and collated in so many seconds; None where collating was not told apart."""
        if len(self._pending) > _MOST_PENDING:  # of epochs that were broken off: nobody got them
            self._pending.clear()
        self._pending[task] = (worker, load, collate)

    def delivered(self, task: int, transfer: float) -> None:
        """It was decoded in so many seconds, and is the next that the consumer gets."""
        known = self._pending.pop(task, None)
        self._due = None if known is None else (*known, transfer)

    def given(self, waited: float) -> None:
        """The consumer has it, after waiting so many seconds."""
        due, self._due = self._due, None
        drawn, self.drawn = self.drawn, 0.0
        if due is not None:
            self._block.append((*due, waited, drawn))
            if len(self._block) >= _BLOCK:
                self._count()

    def _count(self) -> None:
        with self._counting:
            self._count_block()

    def _count_block(self) -> None:
        block, self._block = self._block, []
        self._besides.add(*[max(waited - transfer - drawn, 0.0) for *_, transfer, waited, drawn in block])
        for number in {given[0] for given in block}:
            spreads = self._spreads.get(number)
            if spreads is None:
                spreads = self._spreads[number] = (Spread(), Spread(), Spread(), Spread())
            stages = zip(*[given[1:5] for given in block if given[0] == number], strict=True)
            for spread, stage in zip(spreads, stages, strict=True):
                spread.add(*[seconds for seconds in stage if seconds is not None])

    def costs(self) -> Costs:
        """What a batch costs, over all workers."""
        self._count()
        spreads = list(self._spreads.copy().values())
        if not spreads:
            return Costs()
        stages = [(load, collate) for load, collate, _, _ in spreads]
        count = sum(load.count for load, _ in stages)
        mean = sum(load.seconds + collate.seconds for load, collate in stages) / count
        most = max(load.quantiles().p95 + collate.quantiles().p95 for load, collate in stages)
        return Costs(count, max(mean, most), self._besides.mean_of_most())

    def workers(self) -> list[WorkerTimes]:
        """What is known of each worker, in the order of their ids."""
        self._count()
        return [
            WorkerTimes(worker, spreads[0].count, *(spread.quantiles() for spread in spreads))
            for worker, spreads in sorted(self._spreads.copy().items())
        ]


class Lost:
    """The union of stretches of time, each of which ends when it is added.

    Attributes:
        seconds: Their length in all.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stretches: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # apart, oldest first

    def add(self, now: float, seconds: float) -> None:
        """So many seconds until now were lost."""
        begin, end = now - max(seconds, 0.0), now
        while self._stretches and self._stretches[-1][1] >= begin:
            first, last = self._stretches.pop()
            self.seconds -= last - first
            begin, end = min(begin, first), max(end, last)
        self._stretches.append((begin, end))
        self.seconds += end - begin
