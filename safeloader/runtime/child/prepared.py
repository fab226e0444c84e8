"""What a process was born with of its loader: the dataset and its functions, read by the template that forked it.

The first worker that is hosted here takes them; whoever comes later reads a copy of its own, as everywhere else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from safeloader.runtime.child.main_script import Script
    from safeloader.runtime.payload import Parts

__all__ = ["Prepared", "descriptors", "put", "take"]


class Prepared(NamedTuple):
    """The user's objects, read.

    Attributes:
        payload: device and inode of the file that they came from.
        script: their main script.
        parts: they.
        descriptors: what is open because of them; the processes share it with each other, and with the trainer.
    """

    payload: tuple[int, int]
    script: Script
    parts: Parts
    descriptors: frozenset[int]


_held: Prepared | None = None


def put(prepared: Prepared) -> None:
    """Processes that are forked from here have it."""
    global _held  # noqa: PLW0603 - a process has one
    _held = prepared


def descriptors() -> frozenset[int]:
    """What is open because of it."""
    return frozenset() if _held is None else _held.descriptors


def take(payload: int) -> tuple[Script, Parts] | None:
    """What was read of this file, once; None if nothing was."""
    global _held
    status = os.fstat(payload)
    if _held is None or _held.payload != (status.st_dev, status.st_ino):
        return None
    held, _held = _held, None
    return held.script, held.parts
