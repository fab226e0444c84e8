"""Shared memory for batches: slots in one nameless file, mapped once on each side and used again and again.

Every slot owns a window of the sparse file that is far larger than any batch, so a slot grows by being mapped further:
no renaming, no message, no second file. Memory is used only where a batch was written. The first window holds the
progress pages of the processes, and at its beginning the size of a window: it is smaller where files may not be large
(``ulimit -f``).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct

from safeloader.errors import StartError
from safeloader.runtime import system
from safeloader.runtime.memory.mapping import Mapping

__all__ = ["Arena", "SlotTooSmall"]

_PAGE = mmap.PAGESIZE
_MEMORY_WINDOW = 1 << 40
_MEMORY_SIZE = 1 << 62
_FILE_WINDOW = 1 << 34  # an ordinary file system allows files of less than 16 TiB: 511 slots
_FILE_SIZE = 1 << 43
_FIRST_MAPPING = 1 << 26
_LEAST_WINDOW = 1 << 20
_HEAD = struct.Struct("<Q")


class SlotTooSmall(MemoryError):
    """A batch is larger than a window of the arena."""


class Arena:
    """One side's view of the slots.

    Args:
        descriptor: the file; None to make it (the trainer does).
        slots: how many are in use at the same time; only where files may not be large they are no more than these.

    Raises:
        StartError: files may not be large enough for any batch.
    """

    def __init__(self, descriptor: int | None = None, slots: int = 16) -> None:
        self.descriptor = system.memory_file("arena") if descriptor is None else descriptor
        if descriptor is None:
            self._lay_out(slots)
        (self.window,) = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, 0))
        self._slots = os.fstat(self.descriptor).st_size // self.window - 1
        self._mapped: dict[int, Mapping] = {}

    def _lay_out(self, slots: int) -> None:
        size, window = (_MEMORY_SIZE, _MEMORY_WINDOW) if system.HAS_MEMFD else (_FILE_SIZE, _FILE_WINDOW)
        most = system.largest_file()
        if most is not None and most < size:
            window = min(most // (slots + 1) // _PAGE * _PAGE, window)
            size = window * (slots + 1)
        try:
            if window < _LEAST_WINDOW:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            with system.larger_files():
                os.ftruncate(self.descriptor, size)
                os.pwrite(self.descriptor, _HEAD.pack(window), 0)
        except OSError as error:
            self.close()
            raise StartError(
                f"shared memory for batches cannot be allocated: {system.explained(error)}",
                hint="raise the limit, or load in the main process: num_workers=0",
                code="SL213",
            ) from error

    def map(self, slot: int, nbytes: int) -> Mapping:
        """The slot's memory, at least ``nbytes`` of it. The same object as last time, unless it had to grow.

        Raises:
            SlotTooSmall: more than a window is asked for, or the file has no further window.
        """
        mapping = self._mapped.get(slot)
        if mapping is None or mapping.length < nbytes:
            mapping = self._mapped[slot] = self._map(slot, nbytes)
        return mapping

    def _map(self, slot: int, nbytes: int) -> Mapping:
        if nbytes > self.window or slot >= self._slots:
            most = system.largest_file()
            why = "" if most is None else f" (no file may exceed {most:,} bytes: ulimit -f)"
            raise SlotTooSmall(
                f"a batch of {nbytes:,} bytes (slot {slot}) does not fit into the shared memory of this system: "
                f"{self.window:,} bytes a batch, {self._slots:,} batches{why}"
            )
        length = _FIRST_MAPPING
        while length < nbytes:
            length *= 4
        return Mapping(self.descriptor, min(length, self.window), (slot + 1) * self.window)

    def page(self, process: int) -> Mapping:
        """The progress page of a process."""
        return Mapping(self.descriptor, _PAGE, process * _PAGE)

    def free(self, slot: int) -> None:
        """Give a slot's memory back to the system."""
        mapping = self._mapped.pop(slot, None)
        if mapping is not None:
            mapping.release_memory(mapping.length)

    def forget(self, slot: int) -> None:
        """Unmap a slot on this side as soon as no view needs it."""
        self._mapped.pop(slot, None)

    def used(self) -> int:
        """Bytes of memory (or disk, without ``memfd_create``) that it takes now."""
        return os.fstat(self.descriptor).st_blocks * 512 if self.descriptor >= 0 else 0

    def close(self) -> None:
        """Close the file. Batches that are still held stay mapped until they die."""
        getattr(self, "_mapped", {}).clear()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
