"""When a rank publishes its row, reads the others', and tells: pure, time is an argument.

::

    every `interval`:                      publish
    rank 0, half of `limit` without a step: read, too: who publishes nothing new from then on is silent
    rank 0, `limit` without a step:         read, and tell once
    anybody asks:                          read

A rank that seems to move while rank 0 stands has told so before it stood still, too: it is waited for its next row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from safeloader.distributed.board.judge import Sighting, Verdict, interval, judge, silent_after, turn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safeloader.distributed.board.rank_status import RankStatus

__all__ = ["Job", "Publisher"]

_LONGEST_PAUSE = 30.0
"""Seconds between two tries at a store that does not answer, at most (unless rows are rarer than that)."""
_FAILURES_UNTIL_TOLD = 3


class Job(NamedTuple):
    """What is to be done at the store. A row is published in any case.

    Attributes:
        reads: the rows of all ranks are read.
    """

    reads: bool


class Publisher:
    """One rank's.

    Args:
        rank: its number.
        world: how many there are.
        least: seconds between two rows, of few ranks.
        limit: seconds without a step that count as a stall.
        now: seconds of a clock that only moves on; all moments are of it.

    Attributes:
        every: seconds between two rows.
        failing: tries at the store that failed in a row.
        read_at: when the rows were last read; None: never.
    """

    def __init__(self, rank: int, world: int, least: float, limit: float, now: float) -> None:
        self.rank, self.world, self.limit = rank, world, limit
        self.every = interval(world, least)
        self.failing = 0
        self.read_at: float | None = None
        self._publish_at = now + turn(rank, self.every)
        self._retry_at = now
        self._begun_at = now
        self._begun_in: float | None = None  # the stall in which a job was begun: the moment of the last step
        self._asked = False
        self._stall: tuple[float, float] | None = None  # one whose first reading is done, and when it may be told
        self._told_from = float("-inf")
        self._known: dict[int, tuple[RankStatus, float]] = {}

    def ask(self) -> None:
        """Somebody wants to read."""
        self._asked = True

    def job(self, now: float, last: float | None) -> Job | None:
        """What is due, which is then taken as begun.

        Args:
            now: this moment.
            last: when this rank made its last step; None: it has no loader.
        """
        reads = self._asked or self._reads_at(last) <= now
        if now < self._retry_at or not (reads or self._publish_at <= now):
            return None
        self._begun_at, self._begun_in, self._asked = now, last, False
        return Job(reads)

    def due(self, last: float | None) -> float:
        """When the next job is due."""
        soonest = self._begun_at if self._asked else min(self._publish_at, self._reads_at(last))
        return max(soonest, self._retry_at)

    def _reads_at(self, last: float | None) -> float:
        """When a stall makes this rank read next."""
        if self.rank != 0 or last is None or last <= self._told_from:
            return float("inf")
        if self._stall is None or self._stall[0] != last or self.read_at is None:
            return last + self.limit / 2
        again, tell_at = self.read_at + self.every, self._stall[1]
        return min(again, tell_at) if self.read_at < tell_at else again

    def done(self, now: float, rows: Mapping[int, RankStatus] | None) -> None:
        """The job is done; with the rows, if it was to read."""
        self.failing = 0
        self._publish_at = self._begun_at + self.every
        if rows is None:
            return
        self.read_at = at = self._begun_at
        last = self._begun_in
        if last is not None and at >= last + self.limit / 2 and (self._stall is None or self._stall[0] != last):
            self._stall = last, max(last + self.limit, now + silent_after(self.every))
        for rank, row in rows.items():
            known = self._known.get(rank)
            if known is None or (known[0].pid, known[0].count) != (row.pid, row.count):
                self._known[rank] = (row, now)

    def failed(self, now: float) -> bool:
        """It could not be done. Returns whether that is worth a word now: once until the store answers again."""
        self.failing += 1
        pause = self.every * 2.0 ** min(self.failing, 10)
        self._retry_at = now + min(pause, max(_LONGEST_PAUSE, self.every))
        return self.failing == _FAILURES_UNTIL_TOLD

    @property
    def told_failing(self) -> bool:
        """It has been told that the store does not answer."""
        return self.failing >= _FAILURES_UNTIL_TOLD

    def seen(self, now: float) -> dict[int, Sighting]:
        """The newest row of each rank that is known, with its age."""
        return {rank: Sighting(row, now - at) for rank, (row, at) in sorted(self._known.items())}

    def verdict(self, now: float) -> Verdict:
        """What the rows say."""
        return judge(self.seen(now), self.world, self.limit / 2)

    def to_tell(self, now: float, last: float | None) -> Verdict | None:
        """What is to be told now: once a stall, when the rows were read after it was one."""
        if self.rank != 0 or last is None or last <= self._told_from or self.read_at is None:
            return None
        if self._stall is None or self._stall[0] != last or self.read_at < self._stall[1]:
            return None
        verdict = self.verdict(now)
        if verdict.moving and self.read_at < self._stall[1] + self.limit / 2:
            return None
        self._told_from = last
        return verdict
