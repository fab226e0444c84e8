"""How long a batch's stages take, for each worker: loading, collating, transfer, and the consumer's wait for it.

::

    process: taken ── load ──▶ collated ── collate ──▶ finished
    trainer:                              decode ── transfer ──▶ delivered;   asks ── wait ──▶ got

What of the wait is not the sampler's is counted apart: it is what the loader itself takes.

A batch costs one tuple here; tuples are counted in blocks. Quantiles come from counts in buckets whose bounds grow by a
fifth, so a run of any length needs a few hundred numbers.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

__all__ = ["STAGES", "Costs", "Quantiles", "Spread", "Timings", "WorkerTimes"]

STAGES = ("load", "collate", "transfer", "wait")
"""The stages of a batch, in order."""

_PER_OCTAVE = 4 / math.log(2.0)
_LEAST = 1e-6
_BLOCK = 512
_FEW = 32
_MOST_PENDING = 4096


class Quantiles(NamedTuple):
    """Seconds, to within a fifth.

    Attributes:
        p50: half of the batches took at most so long.
        p95: nineteen of twenty did.
        p99: ninety-nine of a hundred did.
    """

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


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


class Spread:
    """How a duration is spread.

    Attributes:
        count: how many were counted.
        seconds: their sum.
    """

    __slots__ = ("_buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, *seconds: float) -> None:
        """Count them. At once is cheaper: a number costs a tenth then."""
        if len(seconds) < _FEW:
            for one in seconds:
                self._count(int(math.log(one if one > _LEAST else _LEAST) * _PER_OCTAVE), 1)
        else:
            import numpy  # the report, which errors carry, needs none

            buckets = (numpy.log(numpy.maximum(seconds, _LEAST)) * _PER_OCTAVE).astype(numpy.int64)
            for bucket, count in zip(*numpy.unique(buckets, return_counts=True), strict=True):
                self._count(int(bucket), int(count))
        self.count += len(seconds)
        self.seconds += sum(seconds)

    def _count(self, bucket: int, count: int) -> None:
        self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    def quantiles(self) -> Quantiles:
        """Of what was counted; zeros if nothing was."""
        if not self.count:
            return Quantiles()
        buckets = sorted(self._buckets.copy().items())
        return Quantiles(*(self._quantile(buckets, share) for share in (0.5, 0.95, 0.99)))

    def _quantile(self, buckets: list[tuple[int, int]], share: float) -> float:
        wanted, seen = share * self.count, 0
        for bucket, count in buckets:
            seen += count
            if seen >= wanted:
                return float(f"{_middle(bucket):.3g}")
        return 0.0

    def mean_of_most(self, share: float = 0.95) -> float:
        """The mean, for which all but the least ``share`` count as zero."""
        wanted, total = share * self.count, 0.0
        for bucket, count in sorted(self._buckets.copy().items()):
            taken = min(count, wanted)
            total += taken * _middle(bucket)
            wanted -= taken
        return total / self.count if self.count else 0.0


def _middle(bucket: int) -> float:
    return math.exp((bucket + (0.5 if bucket > 0 else -0.5)) / _PER_OCTAVE)


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
