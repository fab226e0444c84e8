"""Who holds an object: a chain of referrers, for a test that finds something alive."""

from __future__ import annotations

import gc
import sys
from types import FrameType, ModuleType
from typing import Any

__all__ = ["held_by"]

_OBJECTS = 300  # that a search looks at; each costs a walk over all objects there are


def held_by(thing: Any) -> str:
    """The shortest chain from a module or a frame down to the object, a line a link.

    Where there is none among the nearest, the chain of the farthest that was looked at: then it is a circle, or the
    holder is written in C. The function that asks counts as nobody.

    Args:
        thing: what should be gone.
    """
    things, parents, told = [thing], {id(thing): 0}, list[str]()
    own, at = sys._getframe(), 0
    for at in range(_OBJECTS):
        if at == len(things) or isinstance(things[at], (ModuleType, FrameType)):
            break
        for holder in gc.get_referrers(things[at]):
            if holder is not things and holder is not own and holder is not own.f_back and id(holder) not in parents:
                parents[id(holder)] = at
                things.append(holder)
    at = min(at, len(things) - 1)
    while True:
        told.append(_told(things[at]))
        if at == 0:
            return "\n  ".join(told)
        at = parents[id(things[at])]


def _told(link: Any) -> str:
    if isinstance(link, dict):
        return f"dict of {list(link)[:8]!r}"
    return f"{type(link).__module__}.{type(link).__qualname__} {repr(link)[:160]}"
