"""A rank's part in the board: what the watch's thread (``observe.stall``) calls between two looks.

It never waits: the publisher says what is due, a thread of the store's client does it, and its end wakes the watch. A
*visit* of the store publishes this rank's row, and may read those of all.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from safeloader import clock, codes
from safeloader.dist_env import group
from safeloader.distributed.board.publisher import Publisher
from safeloader.distributed.board.rank_status import RankStatus, decode, encode, status_of
from safeloader.distributed.board.showing import Reading, as_status
from safeloader.distributed.store import GroupStore, found
from safeloader.observe import stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.distributed.board.publisher import Job
    from safeloader.distributed.board.rank_status import RankStatus
    from safeloader.distributed.store import Call

__all__ = ["BoardMember", "key_of", "visit"]


def visit(store: Any, rank: int, wire: bytes, read: int | None) -> dict[int, RankStatus] | None:
    """Publish a row; and read those of so many ranks.

    Args:
        store: as `GroupStore.open` gives it.
        rank: whose row it is.
        wire: the row, encoded.
        read: how many ranks there are to read; None: read none.
    """
    store.set(key_of(rank), wire.decode())
    if read is None:
        return None
    keys = {key_of(number): number for number in range(read)}
    rows = ((keys[key], decode(value)) for key, value in found(store, list(keys)).items())
    return {number: row for number, row in rows if row is not None and row.rank == number}


def key_of(rank: int) -> str:
    """Where a rank's row is."""
    return f"board/{rank}"


_CALL_HANGS = 45.0
"""Seconds after which a call is given up; longer than the limits of the store's client together."""
_SECONDS_TO_LEAVE = 1.0


class BoardMember:
    """This rank.

    Args:
        store: torch's, of the process group.
        rank: its number.
        world: how many there are.
        least: seconds between two rows, of few ranks.
        limit: seconds without a step that count as a stall.
    """

    def __init__(self, store: Any, rank: int, world: int, least: float, limit: float) -> None:
        self.store, self.rank, self.world = GroupStore(store, stall.wake), rank, world
        self._publisher = Publisher(rank, world, least, limit, clock.now())
        self._call: Call[Any] | None = None  # that is under way
        self._host = socket.gethostname().partition(".")[0]
        self._count = 0
        self._problem = ""
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # of the watch's thread, or of who ends the program
        self._gone = False
        self._last_row: RankStatus | None = None

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
        now = clock.now()
        call = self._call
        if call is not None:
            if not call.wait():
                return self._still_busy(call, now)
            self._ended(call, now)
        told = self._publisher.to_tell(now, glance.last)
        if told is not None and told.said and glance.teller is not None:
            glance.teller.ranks_stalled(told.said, told.holders, told.why)
        job = self._publisher.job(now, glance.last)
        if job is not None:
            self._call = self.store.start(self._job(job))
            return _CALL_HANGS
        return max(self._publisher.due(glance.last) - now, 0.0)

    def _job(self, job: Job) -> Callable[[Any], Any]:
        self._count += 1
        self._last_row = row = status_of(
            stall.status(), rank=self.rank, count=self._count, every=self._publisher.every, host=self._host
        )
        wire, world = encode(row), self.world if job.reads else None
        return lambda store: visit(store, row.rank, wire, world)

    def _ended(self, call: Call[Any], now: float) -> None:
        self._call = None
        with self._changed:
            if call.error is None:
                if self._publisher.told_failing:
                    codes.log_warning(
                        "SL118",
                        "the store of the process group answers again; this rank is on the board again",
                    )
                self._publisher.done(now, call.value)
                self._problem = ""
            else:
                self._failed(call.trouble, now)
            self._changed.notify_all()

    def _failed(self, why: str, now: float) -> None:
        self._problem = f"the store of the process group ({self.store.name}) does not answer: {why}"
        if self._publisher.failed(now):
            codes.log_warning(
                "SL117",
                "%s; until it does, the other ranks cannot see the state of this rank's loaders; training continues",
                self._problem,
            )

    def _still_busy(self, call: Call[Any], now: float) -> float:
        left = _CALL_HANGS - call.seconds
        if left > 0 or not self.store.renew():
            return max(left, 1.0)
        self._call = None
        with self._changed:
            self._failed(f"no answer in {_CALL_HANGS:.0f} s", now)
            self._changed.notify_all()
        return 0.0

    def status(self) -> dict[str, Any]:
        """What this rank knows of all, fit for JSON; and have it read anew for who asks again."""
        self._publisher.ask()
        return {"ranks": as_status(self.reading(), self.store.name)}

    # ------------------------------------------------------------ in any thread

    def reading(self) -> Reading:
        """All ranks, as read last."""
        now, publisher = clock.now(), self._publisher
        with self._changed:
            age = None if publisher.read_at is None else now - publisher.read_at
            return Reading(self.world, publisher.seen(now), publisher.verdict(now), age, self._problem)

    def read(self, seconds: float) -> Reading:
        """All ranks, read now; as read last, with the problem, where that takes longer."""
        begun, failing = clock.now(), self._publisher.failing

        def over() -> bool:
            at = self._publisher.read_at
            return (at is not None and at >= begun) or self._publisher.failing > failing or self._gone

        self._publisher.ask()
        stall.wake()
        with self._changed:
            if not self._changed.wait_for(over, seconds) and not self._problem:
                self._problem = f"the store of the process group ({self.store.name}) has not answered in {seconds:g} s"
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
        over = self._call is None or self._call.wait(_SECONDS_TO_LEAVE)
        if over and self._last_row is not None and not self._publisher.failing:
            self.store.start(self._farewell(self._last_row)).wait(_SECONDS_TO_LEAVE)
        self.store.close()

    def _farewell(self, row: RankStatus) -> Callable[[Any], Any]:
        wire = encode(replace(row, state="left", since=0.0, count=row.count + 1))
        return lambda store: visit(store, self.rank, wire, None)
