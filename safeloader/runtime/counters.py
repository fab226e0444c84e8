"""Counters of itertools, which nothing copies or pickles from Python 3.14 on: they are made again by what they print.

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
        TypeError: it counts by something else than plain numbers.
    """
    printed = repr(counter)
    try:
        return itertools.count, ast.literal_eval(printed.removeprefix("count")[:-1] + ",)")
    except (SyntaxError, ValueError):
        raise TypeError(f"cannot pickle {printed}: it does not count by plain numbers") from None
