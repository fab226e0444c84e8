"""Ordinary memory in the place of a lease, for batches that the trainer loads itself.

They go through the same codec as all others: so they have the same strides, share nothing with the dataset (which the
consumer would change by changing its batch), and what cannot be carried is the same error on every rung.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from safeloader.runtime.memory.kept_memory import KeptMemory

__all__ = ["PrivateMemory"]


class PrivateMemory:
    """Pieces of memory, addressed as if they lay behind one another in a lease. Each dies with its last view.

    Args:
        kept: where large pieces come from, and go back to then.
    """

    def __init__(self, kept: KeptMemory) -> None:
        self._kept = kept
        self._starts: list[int] = []
        self._pieces: list[memoryview] = []
        self._end = 0

    def room(self, nbytes: int) -> tuple[memoryview, int]:
        """Memory, and its offset."""
        large = nbytes >= self._kept.least
        memory = self._kept.lend(nbytes) if large else torch.empty(nbytes, dtype=torch.uint8).numpy()
        piece, start = memory.data, self._end
        self._starts.append(start)
        self._pieces.append(piece)
        self._end += nbytes + 1  # so that an empty piece, too, has a place of its own
        return piece, start

    def tensor(self, dtype: torch.dtype, count: int) -> tuple[torch.Tensor, int]:
        """A flat tensor of ``count`` elements, and its offset."""
        piece, offset = self.room(count * dtype.itemsize)
        return torch.frombuffer(piece, dtype=dtype), offset

    def write(self, data: memoryview | bytes) -> int:
        """Copy bytes; returns their offset."""
        piece, offset = self.room(len(data))
        piece[:] = data
        return offset

    def offset_of(self, address: int, nbytes: int) -> int | None:
        """Nothing is here before it is copied: the dataset may keep what it returns."""
        return None

    def __getitem__(self, wanted: slice) -> memoryview:
        """The bytes between two offsets within one piece."""
        number = bisect.bisect_right(self._starts, wanted.start) - 1
        start = self._starts[number]
        return self._pieces[number][wanted.start - start : wanted.stop - start]
