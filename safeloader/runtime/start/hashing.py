"""The hash seed of a trainer's processes: all of them, and all that replace them, have the same.

Sets of strings are iterated in an order that depends on it, so the numbers that a module gives to classes that way do.
Where the trainer's own seed is known (``PYTHONHASHSEED``), it is theirs. Where it is random, nobody can give it to
another interpreter; then they have one fixed seed, so that at least all of them number alike, in every run.
"""

from __future__ import annotations

import os
import sys

__all__ = ["is_known", "seed"]

_FIXED = 1  # any but 0, which would switch randomisation off: sys.flags tells that
_VARIABLE = "PYTHONHASHSEED"


def seed() -> int:
    """For processes that are started now."""
    own = _own()
    if own is not None:
        return own
    told = _number(os.environ.get(_VARIABLE))  # set by the program: as for whatever else it starts
    return _FIXED if told is None or sys.flags.ignore_environment else told


def is_known() -> bool:
    """Whether this interpreter's own seed is known, so that processes number as it does."""
    return _own() is not None


def _own() -> int | None:
    """What this interpreter was started with; None where it is random."""
    if not sys.flags.hash_randomization:
        return 0
    return None if sys.flags.ignore_environment else _number(_at_start)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) < 1 << 32 else None


def _when_started() -> str | None:
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return os.environ.get(_VARIABLE)
    wanted = _VARIABLE.encode() + b"="
    return next((entry[len(wanted) :].decode() for entry in entries if entry.startswith(wanted)), None)


_at_start = _when_started()
