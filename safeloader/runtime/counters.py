"""Counters of itertools are made again by what they print: Python 3.14 neither copies nor pickles them, 3.12 warns.

The other iterators of itertools do not tell where they stand, so that there they can no longer be carried.
"""

from __future__ import annotations

import ast
import itertools
from typing import Any

__all__ = ["reduce_counter"]


def reduce_counter(counter: itertools.count[Any]) -> Any:
    """What makes such a counter, as pickle wants it.

    Raises:
        TypeError: on Python 3.14 and later, where it counts by something else than plain numbers.
    """
    printed = repr(counter)
    try:
        return itertools.count, ast.literal_eval(printed.removeprefix("count")[:-1] + ",)")
    except (SyntaxError, ValueError):
        return counter.__reduce_ex__(4)
