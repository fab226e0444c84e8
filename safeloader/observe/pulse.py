"""Where the consumer of a loader is: waiting for a batch, or away with one. And how long it has waited.

Two clock readings a batch; nobody else writes here. The watch (``observe.stall``) reads it from its own thread.
"""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READY", "Pulse", "Waits"]

READY = 0.001
"""Seconds: a batch that came sooner was ready when it was asked for."""

_PER_OCTAVE = 4 / math.log(2.0)
_LEAST = 1e-6


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
        stalled: where a stall has been told: what to call with its length in seconds when it is over.
    """

    __slots__ = (
        "__weakref__", "_asked", "_buckets", "_ready", "_seconds", "busy", "since", "stalled", "thread", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.waiting = False
        self.busy = False
        self.since = monotonic()
        self.thread = 0
        self.stalled: Callable[[float], None] | None = None
        self._asked = 0
        self._seconds = 0.0
        self._ready = 0
        self._buckets: dict[int, int] = {}

    def asks(self) -> None:
        """The consumer asks for a batch."""
        now = monotonic()
        if self.stalled is not None:
            self._moves(now)
        self.since = now
        self.waiting = self.busy = True
        if not self.thread:
            self.thread = threading.get_ident()

    def got(self) -> None:
        """It has one."""
        now = monotonic()
        if self.stalled is not None:
            self._moves(now)
        waited = now - self.since
        self.since = now
        self.waiting = False
        self._asked += 1
        self._seconds += waited
        self._ready += waited < READY
        bucket = int(math.log(waited if waited > _LEAST else _LEAST) * _PER_OCTAVE)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def ended(self) -> None:
        """There is none left, or it ended with an error."""
        now = monotonic()
        if self.stalled is not None:
            self._moves(now)
        self.since = now
        self.waiting = self.busy = False
        self.thread = 0

    def _moves(self, now: float) -> None:
        tell, self.stalled = self.stalled, None
        if tell is not None:
            tell(now - self.since)

    def waits(self) -> Waits:
        """The figures so far."""
        if not self._asked:
            return Waits()
        quantiles = (self._quantile(share) for share in (0.5, 0.95, 0.99))
        return Waits(self._asked, self._seconds, self._ready / self._asked, *quantiles)

    def _quantile(self, share: float) -> float:
        buckets = sorted(self._buckets.copy().items())
        wanted, seen = share * self._asked, 0
        for bucket, count in buckets:
            seen += count
            if seen >= wanted:
                return math.exp((bucket + (0.5 if bucket > 0 else -0.5)) / _PER_OCTAVE)
        return 0.0
