"""The memory of one lease, handed out piece after piece."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.memory.mapping import Mapping

__all__ = ["SlotWriter"]

_ALIGN = 64  # a cache line; also enough for every dtype and vector instruction


def _references(anchors: list[memoryview], number: int) -> int:
    return sys.getrefcount(anchors[number])


_UNSHARED = _references([memoryview(b"")], 0)
"""What ``_references`` gives for an anchor that only its list knows."""


class SlotWriter:
    """Hands out the memory of one lease, piece after piece; grows as needed.

    The dataset or the collate function may keep what was put into a lease, and the lease's memory is used again. So
    ``close`` looks whether anything still refers to it: if so, this process's view of the slot becomes private memory
    with the same content at the same address, and from then on nothing is collated in place.

    Args:
        arena: the process's side of the arena.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._slot = -1
        self._mappings: list[Mapping] = []
        self._anchors: list[memoryview] = []
        self._reserved: dict[int, tuple[list[Mapping], list[memoryview], int]] = {}
        self.used = 0
        self.in_place = True

    def open(self, slot: int) -> None:
        """Begin with a lease: empty, or with what was reserved in it."""
        self._slot = slot
        self.used = 0
        if self._reserved and slot in self._reserved:
            self._mappings, self._anchors, self.used = self._reserved.pop(slot)
        else:
            self._add(self._arena.map(slot, 1))

    def reserve(self, slot: int, sizes: list[int]) -> list[torch.Tensor]:
        """Flat tensors of bytes in a lease that is not open yet; opened, it goes on behind them."""
        open_now = self._slot, self._mappings, self._anchors, self.used
        self._mappings, self._anchors = [], []
        try:
            self.open(slot)
            tensors = [self.tensor(torch.uint8, size)[0] for size in sizes]
            self._reserved[slot] = self._mappings, self._anchors, self.used
        finally:
            self._slot, self._mappings, self._anchors, self.used = open_now
        return tensors

    def take_back(self, slot: int) -> None:
        """What was reserved in a lease that will not be opened is not written any more."""
        self._reserved.pop(slot, None)

    def _add(self, mapping: Mapping) -> None:
        self._mappings.append(mapping)
        self._anchors.append(mapping.view())

    def close(self) -> None:
        """Nothing further is written, and the batch is no longer referred to, unless somebody kept it."""
        for number, mapping in enumerate(self._mappings):
            if _references(self._anchors, number) > _UNSHARED:
                mapping.make_private(min(self.used, mapping.length))
                self._arena.forget(self._slot)
                self.in_place = False
        self._slot = -1
        self._mappings.clear()
        self._anchors.clear()

    @property
    def is_open(self) -> bool:
        return self._slot >= 0

    def allocate(self, nbytes: int) -> int:
        """Reserve ``nbytes``; returns their offset."""
        offset = (self.used + _ALIGN - 1) & -_ALIGN
        end = offset + nbytes
        if end > self._mappings[-1].length:
            self._add(self._arena.map(self._slot, end))
        self.used = end
        return offset

    def tensor(self, dtype: torch.dtype, count: int) -> tuple[torch.Tensor, int]:
        """A flat tensor in the lease, and its offset."""
        offset = self.allocate(count * dtype.itemsize)
        return torch.frombuffer(self._anchors[-1], dtype=dtype, count=count, offset=offset), offset

    def room(self, nbytes: int) -> tuple[memoryview, int]:
        """Memory in the lease, and its offset."""
        offset = self.allocate(nbytes)
        return self._anchors[-1][offset : offset + nbytes], offset

    def write(self, data: memoryview | bytes) -> int:
        """Copy bytes into the lease; returns their offset."""
        memory, offset = self.room(len(data))
        memory[:] = data
        return offset

    def offset_of(self, address: int, nbytes: int) -> int | None:
        """The offset of memory that already lies in this lease (under any of its mappings: it may have grown)."""
        for mapping in self._mappings:
            offset = address - mapping.address
            if offset >= 0 and offset + nbytes <= mapping.length:
                return offset
        return None
