"""One worker at a time is in the main process, whichever thread lets it in.

Generators, modes and the folder belong to all threads. Two threads that put them aside for a worker each would get each
other's back, and so would the program.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from safeloader.runtime.trainer.callers import is_in

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "in_turn"]

T = TypeVar("T")
PATIENCE = 10.0
"""Seconds to wait for another thread's worker. It may wait for this one: a dataset that reads another loader's batches,
which one of its threads loads."""

_turn: Any = threading.RLock()


def in_turn(act: Callable[[], T], overtakes: Callable[[], None]) -> T:
    """Do something while no other thread does so; at once within what this thread does so already.

    An exception of a signal handler may come at any instruction. Where it has kept this thread from letting go, that is
    made good by the thread's next turn.

    Args:
        act: what to do.
        overtakes: is called if another thread has not come to an end within `PATIENCE`; ``act`` is called all the same.
    """
    if is_in(sys._getframe(1), in_turn.__code__):
        return act()
    if not (_turn._is_owned() or _turn.acquire(timeout=PATIENCE)):
        overtakes()
        return act()
    try:
        return act()
    finally:
        _turn.release()


def _begin_anew() -> None:
    global _turn  # noqa: PLW0603 - one a program; a fork has none of its parent's threads
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
