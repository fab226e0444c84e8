"""Which process of a pool a loader gets, and how many stand by.

Every loader has its own supervisor and its own books; a process of a pool is on the books of all that have a *place*
there. A loader sits in each process once, as long as there are enough; those that few others use go first, and a pool
starts a process only when no empty one is left.

A standby is one process more than the limit, without loaders. It is given out where a process would have to be started,
and another one is started for it once nobody else is starting.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.core.policy import RestartWindow

__all__ = ["Changes", "Placement", "Reserve", "choose"]


class Placement(NamedTuple):
    """A living process of the pool.

    Attributes:
        process: its number.
        loaders: those that sit there.
        burdened: it is still busy with what a closed loader left behind.
        ready: it has finished its imports.
        standby: it is kept for when another is lost.
        stopped: it is a standby that somebody stopped.
        started_at: seconds.
    """

    process: int
    loaders: tuple[int, ...]
    burdened: bool = False
    ready: bool = True
    standby: bool = False
    stopped: bool = False
    started_at: float = 0.0


def choose(places: Sequence[Placement], loader: int, limit: int) -> int | None:
    """The process where this loader gets its next place; None: start one.

    Args:
        places: the living processes.
        loader: who asks.
        limit: how many processes the pool may have, standbys apart.
    """
    at_work = [place for place in places if not place.standby]
    best = min(at_work, key=lambda p: (p.loaders.count(loader), p.burdened, len(p.loaders), p.process), default=None)
    if best is None or (len(at_work) < limit and (best.loaders or best.burdened)):
        standbys = [place for place in places if place.standby and not place.stopped]
        best = min(standbys, key=lambda p: (not p.ready, p.process), default=None)
    return None if best is None else best.process


class Changes(NamedTuple):
    """Standbys to end, because they are of no use or one too many, and how many to start."""

    end: tuple[int, ...]
    start: int


class Reserve:
    """The standbys of a pool. One that is lost harms nobody; but what is lost again and again, or for lack of memory,
    is not worth it.

    Args:
        wanted: how many are kept; 0: none ever.
        startup_timeout: seconds in which one must be ready.
        faults: how many losses are borne.
    """

    def __init__(self, wanted: int, startup_timeout: float, faults: RestartWindow) -> None:
        self.wanted = wanted
        self._startup_timeout = startup_timeout
        self._faults = faults

    def next_deadline(self, places: Sequence[Placement]) -> float:
        """When one that starts is overdue."""
        return min([self._due(place) for place in places], default=math.inf)

    def changes(self, places: Sequence[Placement], now: float, calm: bool) -> Changes:
        """What is to be done to have as many as are wanted; what is of no use counts as lost.

        Args:
            places: the living processes.
            now: seconds.
            calm: every loader of the pool is at the top of its ladder; else something is wrong, or short.
        """
        useless = [place for place in places if place.stopped or self._due(place) <= now]
        for _ in useless:
            self.lost(now)
        left = [place for place in places if place not in useless]
        if any(place.standby and place.ready for place in left):
            self._faults.row = 0
        wanted = self.wanted if calm else 0
        standbys = sorted([p for p in left if p.standby], key=lambda p: (not p.ready, p.process))
        end = tuple(place.process for place in (*useless, *standbys[wanted:]))
        at_ease = all(place.ready for place in left) and any(place.loaders for place in left)
        return Changes(end, max(wanted - len(standbys), 0) if at_ease else 0)

    def lost(self, now: float, memory_short: bool = False) -> None:
        """A standby ended, or has to be ended."""
        if self._faults.add(now) or memory_short:
            self.wanted = 0

    def _due(self, place: Placement) -> float:
        return place.started_at + self._startup_timeout if place.standby and not place.ready else math.inf
