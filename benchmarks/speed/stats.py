"""Medians and spread of repeated measurements."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Spread:
    """The median of some values, with the least and the greatest of them."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values (at least one)."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    @classmethod
    def of_ratios(cls, over: Sequence[float], under: Sequence[float]) -> Spread:
        """Summarise the ratios of pairs that were measured next to each other."""
        return cls.of([a / b for a, b in zip(over, under, strict=True)])

    def text(self, digits: int = 2, unit: str = "") -> str:
        """The median, with the range in brackets where there is one."""
        middle = f"{self.median:,.{digits}f}{unit}"
        if self.n == 1:
            return middle
        return f"{middle} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"
