"""Small pure decisions: how far down the ladder, how many faults are too many, how long is too long."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

__all__ = ["CoreSettings", "Deadlines", "RestartWindow", "ladder", "longest_batch_timeout", "worst_recovery"]


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the supervisor needs to know; durations in seconds.

    ``indexed`` says that tasks name samples (map-style), so that a bad one can be found and left out. ``batched`` says
    that a task holds several of them; ``stateful`` that the dataset can tell its own state, ``exact_state`` that this
    is known to be exact, ``on_divergence`` what is done when it gives something else than before; ``stateless`` that
    what a worker loads depends on nothing that it loaded before; ``shared`` that the processes are a pool's: others
    work there, too; ``neighbours`` that a worker that lost its process may be taken in by another one for a while.
    """

    num_workers: int
    prefetch_factor: int = 2
    in_order: bool = True
    indexed: bool = True
    batched: bool = True
    stateful: bool = False
    exact_state: bool = False
    on_divergence: Literal["raise", "warn"] = "raise"
    stateless: bool = False
    batch_timeout: float | Literal["auto"] = 120.0
    learned_ceiling: float = 900.0
    startup_timeout: float = 300.0
    slowest_start: float = 0.0  # that this program has seen so far; 0: none
    max_restarts: int = 4
    restart_period: float = 600.0
    fallback: Literal["inline", "process", "off"] = "inline"
    recover_after: int = 1000
    on_bad_sample: Literal["raise", "skip"] = "raise"
    bad_sample_attempts: int = 2
    max_processes: int | None = None
    shared: bool = False
    neighbours: bool = False
    standby: int = 0
    capture_timeout: float = 1.0
    kill_timeout: float = 10.0
    stop_timeout: float = 1.0


def ladder(top: int, fallback: str = "inline") -> tuple[int, ...]:
    """The numbers of processes that fallback goes down: ``ladder(4) == (4, 2, 1, 0)``."""
    rungs = [top]
    floor = {"inline": 0, "process": min(1, top), "off": top}[fallback]
    while rungs[-1] > floor:
        rungs.append(rungs[-1] // 2)
    return tuple(rungs)


def worst_recovery(settings: CoreSettings) -> float:
    """Seconds for which a sample that hangs may hold up its batch, until it is called bad and left out, or raised.

    It hangs `bad_sample_attempts` processes after the first, each for twice the time of the one before, and each of
    them has to be killed. The starts of processes come on top: that one of them hangs as well is another fault. Rungs
    of the ladder add nothing, since a task takes its attempts along.
    """
    base = settings.learned_ceiling if settings.batch_timeout == "auto" else settings.batch_timeout
    return base * _doublings(settings) + _ends(settings)


def longest_batch_timeout(settings: CoreSettings, limit: float) -> float:
    """The `batch_timeout` with which the worst recovery takes so many seconds; not above 0 where none is that short."""
    return (limit - _ends(settings)) / _doublings(settings)


def _doublings(settings: CoreSettings) -> float:
    return float(2 ** min(1 + settings.bad_sample_attempts, 16) - 1)


def _ends(settings: CoreSettings) -> float:
    return (1 + settings.bad_sample_attempts) * (settings.capture_timeout + settings.kill_timeout)


class RestartWindow:
    """At most ``limit`` faults in ``period`` seconds (Erlang/OTP's intensity and period), and at most ``limit`` in a
    row with nothing finished in between, however far apart: else a start that always times out would be tried forever.

    Args:
        limit: how many faults are borne.
        period: seconds in which they count together.
    """

    __slots__ = ("_hits", "_limit", "_period", "row")

    def __init__(self, limit: int, period: float) -> None:
        self._limit = limit
        self._period = period
        self._hits: deque[float] = deque()
        self.row = 0  # set to 0 whenever a task is finished

    def add(self, now: float) -> bool:
        """Count a fault. Returns True if that is one too many."""
        self.row += 1
        self._hits.append(now)
        while self._hits[0] < now - self._period:
            self._hits.popleft()
        return max(len(self._hits), self.row) > self._limit

    def clear(self) -> None:
        """Something was done about the faults: the count begins anew."""
        self._hits.clear()
        self.row = 0

    def postpone(self) -> None:
        """Nothing is done about the faults yet, as the work goes on between them: only the row counts on."""
        self._hits.clear()

    def forgive(self, count: int) -> None:
        """Take back the last ``count`` faults: a bad sample explains them, and fewer processes would not help."""
        for _ in range(min(count, len(self._hits))):
            self._hits.pop()
        self.row = 0


class Deadlines:
    """How long a task may go without progress.

    ``"auto"`` learns: ``FACTOR`` times the slowest batch seen, first batches of a worker apart (they open files and
    fill caches), between ``FLOOR`` and ``ceiling`` seconds. The factor is that of NVIDIA's resiliency extension
    (``safety_factor`` 5.0 over the largest observed interval).
    """

    FACTOR = 5.0
    FLOOR = 10.0
    CEILING = 900.0
    UNTAUGHT = 120.0
    START_FACTOR = 30.0  # a machine that is ten times as busy as at the first start raises no alarm
    START_FLOOR = 60.0
    SLOW_FACTOR = 5.0
    SLOW_FLOOR = 10.0

    __slots__ = ("_ceiling", "_given", "_slowest", "_startup", "learns", "slowest_start")

    def __init__(
        self,
        batch_timeout: float | Literal["auto"],
        startup_timeout: float,
        ceiling: float = CEILING,
        slowest_start: float = 0.0,
    ) -> None:
        self.slowest_start = slowest_start
        self._ceiling = ceiling
        self._given = None if batch_timeout == "auto" else float(batch_timeout)
        self.learns = self._given is None
        self._startup = startup_timeout
        self._slowest: dict[bool, float] = {}

    @property
    def learned(self) -> tuple[float, float]:
        """Seconds of the slowest ordinary batch, and of the slowest first one."""
        return self._slowest.get(False, 0.0), self._slowest.get(True, 0.0)

    @learned.setter
    def learned(self, slowest: tuple[float, float]) -> None:
        self._slowest = {False: slowest[0], True: slowest[1]}

    def observe(self, seconds: float, first: bool) -> bool:
        """Learn from a batch that took ``seconds``; ``first`` says that it was its worker's first. True if that was
        longer than any before."""
        if seconds <= self._slowest.get(first, 0.0):
            return False
        self._slowest[first] = seconds
        return True

    def batch(self, attempts: int, first: bool = False) -> float:
        """Seconds without progress until a batch counts as hung; each failed attempt doubles them."""
        base = self._learned(first) if self._given is None else self._given
        return _doubled(base, attempts) if attempts else base

    def startup(self, attempts: int) -> float:
        """Seconds for a worker to be set up; doubled as above."""
        return _doubled(self._startup, attempts)

    def start(self, attempts: int) -> float:
        """Seconds for a process to become ready: far more than any other took, and no more than is given."""
        learned = max(self.START_FACTOR * self.slowest_start, self.START_FLOOR) if self.slowest_start else self._startup
        return _doubled(min(learned, self._startup), attempts)

    def slow_start(self) -> float:
        """Seconds after which a process that is not ready is worth a line."""
        return max(self.SLOW_FACTOR * self.slowest_start, self.SLOW_FLOOR)

    def started(self, seconds: float) -> None:
        """Learn from a process that was ready after ``seconds``."""
        self.slowest_start = max(self.slowest_start, seconds)

    def _learned(self, first: bool) -> float:
        slowest = max(self._slowest.get(False, 0.0), self._slowest.get(True, 0.0) if first else 0.0)
        if slowest == 0.0:
            return min(self.UNTAUGHT, self._ceiling)
        return min(max(self.FACTOR * slowest, self.FLOOR), self._ceiling)


def _doubled(seconds: float, attempts: int) -> float:
    return float(seconds * 2 ** min(attempts, 16))
