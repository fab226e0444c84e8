"""How a duration is spread: counts in buckets whose bounds grow by a fifth.

A run of any length needs a few hundred numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Quantiles", "Spread"]

_PER_OCTAVE = 4 / math.log(2.0)
_LEAST = 1e-6
_FEW = 32


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
