"""Part of a file as memory, without a descriptor for each mapping, and without a leak wherever an exception arrives."""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import operator
import os
import weakref
from typing import TYPE_CHECKING

from safeloader.runtime.system import libc

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAP_FAILED", "Mapping"]

_MADV_REMOVE = 9
_MAP_FIXED = 0x10
MAP_FAILED = ctypes.c_void_p(-1).value

libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Region:
    """Is unmapped when it dies."""

    __slots__ = ("__weakref__",)


_regions: set[weakref.ref[_Region]] = set()


class Mapping:
    """Part of a file mapped shared and writable; unmapped when the last reference to it, or to a view, dies.

    Python's ``mmap`` keeps a duplicate of the descriptor for each mapping (until 3.13), which would cost a descriptor
    for every batch that is kept; this keeps none.

    Args:
        descriptor: an open file.
        length: bytes; may reach beyond what is written yet (memory is used only where it is touched).
        offset: bytes, a multiple of the page size.

    Attributes:
        address: where it lies.
        array: the bytes, writable; views of it (numpy, torch, memoryview) keep it mapped.
        before_unmap: calls into C that come before, one after another; if one returns anything but 0, it stays mapped.
    """

    __slots__ = ("address", "array", "before_unmap", "length")

    def __init__(self, descriptor: int, length: int, offset: int) -> None:
        self.length = length
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        region, addresses = _Region(), []  # type: tuple[_Region, list[int | None]]
        # An exception can arrive between any two lines (Ctrl-C), but not within a call that runs no Python code. So the
        # address is noted by the call that maps, and unmapping is one such call too: it is prepared before.
        self.before_unmap: list[Callable[[], int]] = []
        before = map(operator.methodcaller("__call__"), self.before_unmap)
        calls = itertools.chain(before, map(libc.munmap, addresses, (length,)))
        unmap = functools.partial(next, filter(None, calls))
        _regions.difference_update([known for known in list(_regions) if known() is None])
        _regions.add(weakref.ref(region, unmap))
        wanted = None, length, protection, mmap.MAP_SHARED, descriptor, offset
        addresses.extend(itertools.starmap(libc.mmap, (wanted,)))
        address = addresses[0]
        if address is None or address == MAP_FAILED:
            addresses.clear()
            code = ctypes.get_errno()
            raise OSError(code, f"cannot map {length:,} bytes of shared memory: {os.strerror(code)}")
        self.address = address
        self.array = (ctypes.c_char * length).from_address(self.address)
        self.array.region = region  # type: ignore[attr-defined]

    def view(self) -> memoryview:
        """The bytes as a memoryview of unsigned chars."""
        return memoryview(self.array).cast("B")

    def make_private(self, used: int) -> None:
        """Keep the address and the first ``used`` bytes, but no longer share them with anybody."""
        content = bytes(self.view()[:used])
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        address = libc.mmap(self.address, self.length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if address is None or address == MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self.view()[:used] = content

    def release_memory(self, length: int) -> None:
        """Give the first ``length`` bytes back to the system; they read as zeros then."""
        libc.madvise(self.address, min(length, self.length), _MADV_REMOVE)
