"""Memory of handed-out batches: a piece is used again only when nothing refers to it any more.

FFCV reuses a ring of ``batches_ahead + 2`` slots whether somebody still looks into a batch or not. Copying each batch
would cost a tenth of the throughput; here the last operation of a pipeline writes into memory of its own instead.
Whatever looks into a batch (a tensor, a slice of it, an array) holds a reference to the array that owns the memory, so
its reference count says whether it is free: no callback, no lock.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["Pool", "Slots"]


class Pool:
    """Arrays of one shape and type.

    Args:
        shape: Shape of an array, batch dimension first.
        dtype: Its type.
        spare: Free arrays that are kept; more are given back to the system.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], spare: int) -> None:
        self._shape = shape
        self._dtype = dtype
        self._spare = spare
        self._arrays: list[np.ndarray[Any, Any]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of one array."""
        return int(np.prod(self._shape)) * self._dtype.itemsize

    def shaped(self, memory: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Foreign memory, ``nbytes`` of it, as an array like those of the pool; it is not the pool's."""
        return memory.view(self._dtype).reshape(self._shape)

    def take(self) -> np.ndarray[Any, Any]:
        """An array that nothing else refers to; the caller holds it until he has made his views."""
        free = [number for number in range(len(self._arrays)) if sys.getrefcount(self._arrays[number]) == _FREE]
        for number in reversed(free[self._spare :]):
            del self._arrays[number]
        if not free:
            self._arrays.append(np.empty(self._shape, self._dtype))
            return self._arrays[-1]
        return self._arrays[free[0]]

    def __len__(self) -> int:
        return len(self._arrays)


def _count_when_free() -> int:
    arrays = [np.empty(1)]
    return next(sys.getrefcount(arrays[number]) for number in range(1))


_FREE = _count_when_free()


class Slots:
    """Stands for FFCV's array of slots: slot ``i`` is whatever array was put there for the batch in work."""

    def __init__(self, pool: Pool, count: int) -> None:
        self.pool = pool
        self._slots: list[np.ndarray[Any, Any] | None] = [None] * count

    def __getitem__(self, slot: int) -> np.ndarray[Any, Any]:
        found = self._slots[slot]
        assert found is not None, "no batch is in work in this slot"
        return found

    def open(self, slot: int, lent: np.ndarray[Any, Any] | None = None) -> None:
        """A batch begins in this slot, in memory that was lent for it, or in memory of the pool."""
        self._slots[slot] = self.pool.take() if lent is None else lent

    def close(self, slot: int) -> None:
        """The batch is made: only what looks into it keeps its memory now."""
        self._slots[slot] = None
