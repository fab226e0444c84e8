"""The one loop that asks again: for facts about other processes and threads that nothing announces."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["is_in", "until"]

T = TypeVar("T")
_PAUSE = 0.01  # seconds between two questions


def until(fact: Callable[[], T], seconds: float = 60.0) -> T:
    """Ask until the answer is true, and return it.

    Args:
        fact: the question; anything that takes the time it takes (a look that waits) is fine.
        seconds: how long at most.

    Raises:
        AssertionError: it has not come true; names the question, and its last answer.
    """
    end = time.monotonic() + seconds
    while not (answer := fact()):
        if time.monotonic() > end:
            raise AssertionError(f"not true after {seconds:g} s: {_source(fact)} (it is {answer!r})")
        time.sleep(_PAUSE)
    return answer


def is_in(thread: int, function: str) -> bool:
    """Whether a thread, known by its ident, has called a function of this name that has not returned."""
    frame = sys._current_frames()[thread]
    while frame.f_code.co_name != function:
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return True


def _source(fact: Callable[[], object]) -> str:
    try:
        return inspect.getsource(fact).strip()
    except (OSError, TypeError):
        return repr(fact)
