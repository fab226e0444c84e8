"""Which process of a pool a loader gets.

Every loader has its own supervisor and its own books; a process of a pool is on the books of all that have a *seat*
there. A loader sits in each process once, as long as there are enough; those that few others use go first, and a pool
starts a process only when no empty one is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Place", "choose"]


class Place(NamedTuple):
    """A living process of the pool: its number, the loaders that sit there, and whether it is still busy with what a
    closed loader left behind."""

    process: int
    loaders: tuple[int, ...]
    burdened: bool = False


def choose(places: Sequence[Place], loader: int, limit: int) -> int | None:
    """The process where this loader gets its next seat; None: start one.

    Args:
        places: the living processes.
        loader: who asks.
        limit: how many processes the pool may have.
    """
    best = min(places, key=lambda p: (p.loaders.count(loader), p.burdened, len(p.loaders), p.process), default=None)
    if best is None or (len(places) < limit and (best.loaders or best.burdened)):
        return None
    return best.process
