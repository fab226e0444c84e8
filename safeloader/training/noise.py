"""How much of a change is chance: learned from the run itself.

Second differences take out what moves steadily, so that a run that still learns does not pass for a noisy one.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["enough", "fall_that_counts", "noise_of"]

_LEAST = 4  # second differences until something is known
_LATEST = 30
_NORMAL = 1.4826  # a normal distribution's deviation, of its median absolute deviation
_FACTORS = {1: 8.0, 2: 7.0, 3: 6.0, 4: 5.0, 5: 4.5, 6: 3.5}
"""A fall over so many evaluations, each worse than the last, counts if it is so many deviations: the longer the row,
the less chance makes it by itself (one order of k + 1 values in (k + 1)!)."""


def enough(values: Sequence[float]) -> bool:
    """Whether the noise is known."""
    return len(values) >= _LEAST + 2


def noise_of(values: Sequence[float], least: float = 0.0) -> float:
    """The standard deviation of the noise in a series; ``least`` where that is more, and 0 where nothing is known."""
    if not enough(values):
        return least
    latest = list(values)[-_LATEST:]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(latest, latest[1:], latest[2:], strict=False)]
    typical = _NORMAL * median(bends)
    mean = math.sqrt(sum(min(bend, 4 * typical) ** 2 for bend in bends) / len(bends))
    return max(least, typical / math.sqrt(6), mean / math.sqrt(6))


def fall_that_counts(row: int, noise: float) -> float:
    """How far a metric must have fallen over ``row`` evaluations to count as more than noise."""
    return _FACTORS.get(row, 0.0) * noise
