"""Where the consumer of a loader is: waiting for a batch, or away with one. And how long it has waited.

Two clock readings a batch; nobody else writes here. The watch (``observe.stall``) reads it from its own thread.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from safeloader.observe.timings import Spread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READY", "Pulse", "Waits"]

READY = 0.001
"""Seconds: a batch that came sooner was ready when it was asked for."""
_BLOCK = 512


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
