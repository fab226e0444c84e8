"""Generators that are seeded anew in every fork, by those who made them: a copy of a process puts them back."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["capture"]


def capture() -> Callable[[], None]:
    """Keep them as they are; what is returned puts them back."""
    states: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(random.setstate, (random.getstate(),))]
    numba: Any = sys.modules.get("numba._helperlib")  # of compiled functions; numba/_random.c, rnd_implicit_init
    try:
        for where in (numba.rnd_get_np_state_ptr(), numba.rnd_get_py_state_ptr()) if numba is not None else ():
            states.append((numba.rnd_set_state, (where, numba.rnd_get_state(where))))
    except (AttributeError, TypeError):  # another release keeps them elsewhere
        pass

    def put_back() -> None:
        for put, given in states:
            put(*given)

    return put_back
