"""Whose message a shared process takes next: his who has had the least time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

__all__ = ["Turns"]

K = TypeVar("K", bound="Hashable")


class Turns(Generic[K]):
    """Shares time, not messages: a loader with slow samples gets no more of it than one with quick ones, and nobody
    waits longer than one message of each other. Who had nothing to do saves no time up for later (start-time fair
    queueing; Goyal, Vin and Cheng, SIGCOMM 1996).
    """

    def __init__(self) -> None:
        self._spent: dict[K, float] = {}
        self._waited: Collection[K] = ()
        self._now = 0.0  # what the last one to be chosen had spent

    def choose(self, waiting: Collection[K]) -> K:
        """Who is next among those who wait, of whom there is at least one."""
        for key in waiting:
            if key not in self._spent or key not in self._waited:
                self._spent[key] = max(self._spent.get(key, 0.0), self._now)
        chosen = min(waiting, key=self._spent.__getitem__)
        self._waited, self._now = waiting, self._spent[chosen]
        return chosen

    def spend(self, key: K, seconds: float) -> None:
        """It has had so much time."""
        self._spent[key] += seconds

    def forget(self, key: K) -> None:
        self._spent.pop(key, None)
