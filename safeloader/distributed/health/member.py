"""A rank's part in the board: what the watch's thread (``observe.stall``) calls between two looks.

It never waits: the keeper says what is due, the line does it, and the line's end wakes the watch.
"""

from __future__ import annotations

import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ...observe import stall
from ...observe.log import logger
from ...ranks import group
from .keeper import Keeper
from .line import Line, Outcome
from .row import Row, encode, row_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .access import Access
    from .judge import Seen, Verdict
    from .keeper import Job

__all__ = ["Member", "Reading"]

_LINE_HANGS = 45.0
"""Seconds after which a job is given up; longer than the limits of `access` together."""
_MOST_LEFT_BEHIND = 3
_SECONDS_TO_LEAVE = 1.0


class Reading(NamedTuple):
    """All ranks, as read last.

    Attributes:
        world: how many there are.
        seen: the newest row of each that has one.
        verdict: what that means.
        age: seconds since it was read; None: never.
        problem: why it could not be read lately; "" if it could.
    """

    world: int
    seen: dict[int, Seen]
    verdict: Verdict
    age: float | None
    problem: str


class Member:
    """This rank.

    Args:
        access: the way to the store.
        rank: its number.
        world: how many there are.
        least: seconds between two rows, of few ranks.
        limit: seconds without a step that count as a stall.
    """

    def __init__(self, access: Access, rank: int, world: int, least: float, limit: float) -> None:
        self.access, self.rank, self.world = access, rank, world
        self._keeper = Keeper(rank, world, least, limit, monotonic())
        self._line = Line(stall.wake)
        self._left_behind: list[Line] = []  # that hang
        self._host = socket.gethostname().partition(".")[0]
        self._count = 0
        self._problem = ""
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # of the watch's thread, or of who ends the program
        self._gone = False
        self._last_row: Row | None = None

    @property
    def gone(self) -> bool:
        """It has left."""
        return self._gone

    # ------------------------------------------------------------ in the watch's thread

    def look(self, glance: stall.Glance) -> float | None:
        """Do what is due. Returns the seconds until more is; None: it has ended."""
        with self._turn:
            return self._look(glance)

    def _look(self, glance: stall.Glance) -> float | None:
        if self._gone or group() != (self.rank, self.world):
            self._leave()
            return None
        now = monotonic()
        outcome = self._line.outcome()
        if outcome is not None:
            self._ended(outcome, now)
        elif self._line.busy:
            return self._still_busy(now)
        told = self._keeper.to_tell(now, glance.last)
        if told is not None and told.said and glance.teller is not None:
            glance.teller.ranks_stalled(told.said, told.holders, told.why)
        job = self._keeper.job(now, glance.last)
        if job is not None:
            self._line.begin(self._job(job))
            return _LINE_HANGS
        return max(self._keeper.due(glance.last) - now, 0.0)

    def _job(self, job: Job) -> Callable[[], Any]:
        self._count += 1
        self._last_row = row = row_of(
            stall.status(), rank=self.rank, count=self._count, every=self._keeper.every, host=self._host
        )
        access, wire, world = self.access, encode(row), self.world if job.reads else None
        return lambda: access.visit(row.rank, wire, world)

    def _ended(self, outcome: Outcome, now: float) -> None:
        with self._changed:
            if outcome.error is None:
                if self._keeper.told_failing:
                    logger.warning("the store of the process group answers again; this rank is back on the board")
                self._keeper.done(now, outcome.value)
                self._problem = ""
            else:
                self._failed(f"{type(outcome.error).__name__}: {outcome.error}".partition("\n")[0], now)
            self._changed.notify_all()

    def _failed(self, why: str, now: float) -> None:
        self._problem = f"the store of the process group ({self.access.name}) does not answer: {why}"
        if self._keeper.failed(now):
            logger.warning(
                "%s; the other ranks cannot see how this one's data stands until it does, training goes on",
                self._problem,
            )

    def _still_busy(self, now: float) -> float:
        left = _LINE_HANGS - self._line.seconds
        self._left_behind = [line for line in self._left_behind if line.alive]
        if left > 0 or len(self._left_behind) >= _MOST_LEFT_BEHIND:
            return max(left, 1.0)
        self._line.close()
        self._left_behind.append(self._line)
        self._line = Line(stall.wake)
        with self._changed:
            self._failed(f"no answer in {_LINE_HANGS:.0f} s", now)
            self._changed.notify_all()
        return 0.0

    def status(self) -> dict[str, Any]:
        """What this rank knows of all, fit for JSON; and have it read anew for who asks again."""
        from .showing import as_status

        self._keeper.ask()
        return {"ranks": as_status(self.reading(), self.access.name)}

    # ------------------------------------------------------------ in any thread

    def reading(self) -> Reading:
        """All ranks, as read last."""
        now, keeper = monotonic(), self._keeper
        with self._changed:
            age = None if keeper.read_at is None else now - keeper.read_at
            return Reading(self.world, keeper.seen(now), keeper.verdict(now), age, self._problem)

    def read(self, seconds: float) -> Reading:
        """All ranks, read now; as read last, with the problem, where that takes longer."""
        begun, failing = monotonic(), self._keeper.failing

        def over() -> bool:
            at = self._keeper.read_at
            return (at is not None and at >= begun) or self._keeper.failing > failing or self._gone

        self._keeper.ask()
        stall.wake()
        with self._changed:
            if not self._changed.wait_for(over, seconds) and not self._problem:
                self._problem = f"the store of the process group ({self.access.name}) has not answered in {seconds:g} s"
        return self.reading()

    def leave(self) -> None:
        """Say that this rank ends, and publish nothing more."""
        if self._turn.acquire(timeout=_SECONDS_TO_LEAVE):
            try:
                self._leave()
            finally:
                self._turn.release()

    def _leave(self) -> None:
        if self._gone:
            return
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self._line.outcome(_SECONDS_TO_LEAVE)
        if not self._line.busy and self._last_row is not None and not self._keeper.failing:
            self._line.begin(self._farewell(self._last_row))
            self._line.outcome(_SECONDS_TO_LEAVE)
        self._line.close()

    def _farewell(self, row: Row) -> Callable[[], Any]:
        from dataclasses import replace

        wire = encode(replace(row, state="left", since=0.0, count=row.count + 1))
        return lambda: self.access.visit(self.rank, wire, None)
