"""Seconds that faults cost: where they overlap, that time counts once."""

from __future__ import annotations

from collections import deque

__all__ = ["Lost"]

_KEPT = 1000  # stretches; older ones are over for good


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
