"""Which slots of a process's arena on its host hold the batches for which slots of the trainer.

The trainer leases from a number of slots that all its processes share; a process on another host has an arena of its
own, and few tasks at a time. So it is given the lowest slot that is free there, and its memory stays small.
"""

from __future__ import annotations

import heapq
import itertools
import pickle
import struct
from typing import NamedTuple

from safeloader.runtime import protocol as p

__all__ = ["Answer", "NodeSlots"]


class Answer(NamedTuple):
    """What a process answered to a task.

    Attributes:
        here: the slot that it may have written to.
        there: the trainer's.
        nbytes: how much of it is to be sent.
    """

    here: int
    there: int
    nbytes: int


class NodeSlots:
    """Those of one process."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = itertools.count()
        self._taken: dict[int, tuple[int, int]] = {}  # by task: here and there

    def task(self, asked: p.Task, body: bytes) -> bytes:
        """A task's frame as the process is given it: another slot, and the indices untouched, whatever they are."""
        here = heapq.heappop(self._free) if self._free else next(self._next)
        self._taken[asked.task] = here, asked.slot
        return _with_last_number(body, asked.slot, here)

    def answer(self, message: object) -> Answer | None:
        """What a message of the process answers, if it answers a task. The slot is free again after ``release``."""
        if not isinstance(message, p.TO_TASK):
            return None
        here, there = self._taken.pop(message.task)
        return Answer(here, there, _extent(message) if isinstance(message, p.Loaded) else 0)

    def release(self, here: int) -> None:
        """Everything in it has been sent."""
        heapq.heappush(self._free, here)


_END_OF_TUPLE = pickle.TUPLE + pickle.MEMOIZE + pickle.STOP
_NUMBERS = ((1 << 8, pickle.BININT1, "<B"), (1 << 16, pickle.BININT2, "<H"), (1 << 31, pickle.BININT, "<i"))


def _with_last_number(body: bytes, old: int, new: int) -> bytes:
    """A pickled tuple whose last part is a number, with another one that is not larger.

    Raises:
        ValueError: it does not end so.
    """
    code, form = next((code, form) for limit, code, form in _NUMBERS if old < limit)
    end = code + struct.pack(form, old) + _END_OF_TUPLE
    if not body.endswith(end):
        raise ValueError("a task does not end with its slot")
    return body[: -len(end)] + code + struct.pack(form, new) + _END_OF_TUPLE


def _extent(loaded: p.Loaded) -> int:
    """How many bytes of its slot a loaded batch reaches over, with what the dataset says."""
    return max(loaded.nbytes, *(sum(piece) for piece in (loaded.place, loaded.said_at) if piece is not None), 0)
