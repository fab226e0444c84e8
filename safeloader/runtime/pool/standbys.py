"""The standbys of a pool, and how it hears of them.

A loader listens to the processes where it has a place; nobody has one in a standby. So the channels of the pool, which
say that a process is ready, or gone, are behind one descriptor, and every driver that waits waits for it, too.
"""

from __future__ import annotations

import math
import select
from typing import TYPE_CHECKING, NamedTuple

from safeloader import clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safeloader.core.placement import Changes, Reserve
    from safeloader.runtime.pool.pool_process import PoolProcess

__all__ = ["Loss", "Standbys"]

_AGAIN = 1.0  # seconds until the next look, where the system has no epoll


class Loss(NamedTuple):
    """A standby is gone: why, in the words of a fault."""

    pid: int
    cause: str
    detail: str


class Standbys:
    """Listens for a pool; which standbys there should be is decided by the reserve.

    Args:
        reserve: it.
    """

    def __init__(self, reserve: Reserve) -> None:
        self.reserve = reserve
        self.kept = reserve.wanted > 0  # else there is nothing to do, ever
        self.due = math.inf  # when to look without having heard anything
        self._losses: list[Loss] = []
        self._epoll = select.epoll() if self.kept and hasattr(select, "epoll") else None

    @property
    def descriptor(self) -> int:
        """Readable when the pool should look; -1 where there is none."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def watch(self, member: PoolProcess) -> None:
        """A process was started: hear when it is ready; of a standby, when it is gone, too."""
        if self._epoll is not None:
            self._epoll.register(member.process.channel.fileno(), select.EPOLLIN)

    def forget(self, member: PoolProcess) -> None:
        """Its loaders listen to it now, or it is gone."""
        if self._epoll is not None:
            try:
                self._epoll.unregister(member.process.channel.fileno())
            except (FileNotFoundError, ValueError):  # forgotten before, or closed
                pass

    def changes(self, members: Iterable[PoolProcess], calm: bool) -> Changes:
        """What is to be done now."""
        members, now = list(members), clock.now()
        places = [member.place() for member in members]
        for member, place in zip(members, places, strict=True):
            if place.ready and not place.standby:
                self.forget(member)
        changes = self.reserve.changes(places, now, calm)
        for place, member in zip(places, members, strict=True):
            if place.process in changes.end and place.stopped:
                self._losses.append(Loss(member.process.pid, "stopped", ""))
            elif place.process in changes.end and not place.ready and calm:
                self._losses.append(Loss(member.process.pid, "failed_start", ""))
        self.due = self.reserve.next_deadline([place for place in places if place.process not in changes.end])
        if self._epoll is None and len([p for p in places if p.standby and p.ready]) < self.reserve.wanted:
            self.due = now + _AGAIN
        return changes

    def gone(self, member: PoolProcess) -> None:
        """A standby ended by itself."""
        fate = member.fate()
        if fate is not None:
            cause = "oom" if fate.memory_short else "died" if member.is_ready() else "failed_start"
            self._losses.append(Loss(member.process.pid, cause, fate.exit.detail))
            self.reserve.lost(clock.now(), fate.memory_short)

    @property
    def has_losses(self) -> bool:
        return bool(self._losses)

    def losses(self) -> list[Loss]:
        """Those that nobody was told of yet."""
        if not self._losses:
            return []
        told, self._losses = self._losses, []
        return told

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
