"""Memory that fork would leave shared: nameless maps, arrays and tensors over shared memory, locks of a fork context.

Each worker maps the same memory. What has no name any more is reached through a descriptor that this process has of
it, else through ``/proc/self/map_files``, which needs a privilege. Without both, the memory is exchanged, at the same
address, for a memory file with the same contents. That is done only while no other process maps it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import stat
import weakref
from multiprocessing import context
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.runtime.by_value import rebuild
from safeloader.runtime.handles.places import open_regular_files, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

Pickler = Any

EXCHANGED = "shared with workers"
_OURS = (":safeloader-", "/safeloader-")  # batches, and what is sent: never shared further
_NAMELESS = "/dev/zero"
_WAITERS = 32  # bits: glibc counts those that wait for a semaphore above its value


class Region(NamedTuple):
    """One shared, writable mapping of this process."""

    start: int
    end: int
    offset: int  # in the file
    inode: int
    path: str


class Shared:
    """A part of a stream: memory that each reader maps.

    Args:
        number: Of the descriptor in the stream.
        offset: In the file.
        size: Bytes from there.
    """

    def __init__(self, number: int, offset: int, size: int) -> None:
        self._how = number, offset, size

    def __reduce__(self) -> Any:
        return mapped, self._how


def mapped(number: int, offset: int, size: int) -> mmap.mmap:
    return mmap.mmap(rebuild.descriptor(number), size, mmap.MAP_SHARED, offset=offset)


# ---------------------------------------------------------------- what is carried


def reduce_nameless(pickler: Pickler, memory: Any, address: int) -> Any:
    """An ``mmap`` without a file. Those that are shared stay so."""
    region = _region(pickler, address, len(memory))
    assert region is not None
    shared = _shared(pickler, region, memory)
    words = f"mapped memory of {len(memory):,} bytes, shared with the trainer and all workers"
    return pickler.reopened(memory, words, _nameless, type(memory), shared._how, len(memory), memory.tell())


def _nameless(cls: Any, how: tuple[int, int, int], size: int, position: int) -> Any:
    made = cls(rebuild.descriptor(how[0]), size, mmap.MAP_SHARED, offset=how[1])
    made.seek(position)
    return made


def reduce_array(pickler: Pickler, array: Any) -> Any:
    """An array over shared memory stays one, a view with gaps or steps backwards one of the memory that it looks into,
    unless that is far more than it shows; any other goes as it always does."""
    import numpy

    plain = type(array) is numpy.ndarray and array.base is not None and array.nbytes and not array.dtype.hasobject
    scattered = not (array.flags.c_contiguous or array.flags.f_contiguous)
    if not plain or not (_here(pickler).regions or scattered):
        return NotImplemented
    first = array.__array_interface__["data"][0]
    steps = [(count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True)]
    low = first + sum(step for step in steps if step < 0)
    size = first + sum(step for step in steps if step > 0) + array.itemsize - low
    region = _region(pickler, low, size) if _here(pickler).regions else None
    shared = None if region is None else _shared(pickler, region, _root(array))
    if region is None or shared is None:
        if not scattered or size > 2 * array.nbytes:
            return NotImplemented
        whole = numpy.asarray(_Memory(array, low, size))
        return array_over, (whole, first - low, array.shape, array.dtype, array.strides, array.flags.writeable)
    return array_over, (shared, first - region.start, array.shape, array.dtype, array.strides, array.flags.writeable)


class _Memory:
    """What an array looks into, for numpy."""

    def __init__(self, array: Any, address: int, size: int) -> None:
        self._array = array  # keeps it
        place = address, not array.flags.writeable
        self.__array_interface__ = {"data": place, "shape": (size,), "typestr": "|u1", "version": 3}


def _root(array: Any) -> Any:
    """What an array's memory belongs to."""
    while True:
        base = getattr(array, "base", None)
        inner = array.obj if isinstance(array, memoryview) else base
        if inner is None:
            return array
        array = inner


def array_over(memory: Any, first: int, shape: Any, dtype: Any, strides: Any, writeable: bool) -> Any:
    import numpy

    made = numpy.ndarray(shape, dtype, memory, first, strides)
    made.flags.writeable = writeable
    return made


def shared_storage(pickler: Pickler, address: int, size: int) -> tuple[Shared, int] | None:
    """Where the memory of a tensor lies in shared memory of another kind than torch's; None if it does not."""
    region = _region(pickler, address, size) if _here(pickler).regions else None
    if region is None or region.path.startswith(_NAMELESS):  # pinned memory looks like that, too
        return None
    shared = _shared(pickler, region, None)
    return None if shared is None else (shared, address - region.start)


def storage_over(memory: Any, first: int, size: int) -> Any:
    return rebuild.storage_over(memoryview(memory)[first : first + size])


def reduce_semaphore(pickler: Pickler, lock: Any) -> Any:
    """multiprocessing's own way, but for those of a fork context, which have lost their names."""
    inner = lock._semlock
    if inner.name is not None:
        return NotImplemented
    region = _region(pickler, inner.handle, 8)
    shared = None if region is None else _shared(pickler, region, lock, inner.handle)
    if region is None or shared is None:
        refuse(
            "it was made by a fork context, and this system does not tell where",
            'make it with multiprocessing.get_context("spawn")',
        )
    return semaphore_at, (type(lock), shared, inner.handle - region.start, inner.kind, inner.maxvalue)


def semaphore_at(cls: Any, memory: Any, first: int, kind: int, most: int) -> Any:
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + first
    made = cls.__new__(cls)
    made.__setstate__((address, kind, most, None))
    _kept.append((made._semlock, memory))  # glibc would be asked to unmap what it has not mapped
    return made


_kept: list[Any] = []


# ---------------------------------------------------------------- where it lies


class _Here:
    """What one stream knows of this process's memory."""

    def __init__(self) -> None:
        self.shared: dict[Region, Shared] = {}

    @functools.cached_property
    def regions(self) -> list[Region]:
        return list(_mapped_here())


def _here(pickler: Pickler) -> _Here:
    found: _Here = pickler.same(_Here, _Here())
    return found


def _mapped_here() -> Iterator[Region]:
    with contextlib.suppress(OSError), open("/proc/self/maps") as lines:
        for line in lines:
            span, mode, offset, _, inode, *path = line.split(maxsplit=5)
            name = path[0].rstrip("\n") if path else ""
            if mode[1] == "w" and mode[3] == "s" and inode != "0" and _may_be_shared(name):
                start, end = (int(part, 16) for part in span.split("-"))
                yield Region(start, end, int(offset, 16), int(inode), name)


def _may_be_shared(name: str) -> bool:
    if any(ours in name for ours in _OURS):
        return False
    return not name.startswith("/dev/") or name.startswith(("/dev/shm/", _NAMELESS))


def _region(pickler: Pickler, address: int, size: int) -> Region | None:
    found = (region for region in _here(pickler).regions if region.start <= address and address + size <= region.end)
    return next(found, None)


def _shared(pickler: Pickler, region: Region, owner: Any, semaphore: int | None = None) -> Any:
    """What stands for a region in the stream, once; None if nobody can map it again, and nobody must.

    Args:
        pickler: Of this stream.
        region: The mapping.
        owner: Whose memory it is. Without one that is known to be the program's, nothing is exchanged.
        semaphore: Where one lies in it, on which somebody may wait.
    """
    known = _here(pickler).shared
    if region in known:
        return known[region]
    descriptor, offset = _opened(region), region.offset
    if descriptor is None:
        if semaphore is None and not isinstance(owner, mmap.mmap):
            return None
        descriptor, offset = _exchanged(region, owner, semaphore), 0
    popen: Any = context.get_spawning_popen()
    try:
        size = min(region.end - region.start, os.fstat(descriptor).st_size - offset)
        return known.setdefault(region, Shared(popen.duplicate_for_child(descriptor), offset, size))
    finally:
        os.close(descriptor)


def _opened(region: Region) -> int | None:
    """A descriptor for reading and writing of what is mapped, if one can be had."""
    places = [f"/proc/self/fd/{number}" for number in open_regular_files(all_of_them=True)]
    for path in (*places, region.path, f"/proc/self/map_files/{region.start:x}-{region.end:x}"):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if status.st_ino != region.inode or not stat.S_ISREG(status.st_mode):
                continue
            if path not in places or os.readlink(path) == region.path:
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return None


def _exchanged(region: Region, owner: Any, semaphore: int | None) -> int:
    """Put a memory file with the same contents in the place of a mapping. No Python code runs meanwhile."""
    if _maps_elsewhere(region.inode):
        refuse(
            "other processes share it by fork already, and this one may not open it for more",
            "use multiprocessing.shared_memory, or a lock of a spawn context",
        )
    if semaphore is not None and ctypes.c_uint64.from_address(semaphore).value >> _WAITERS:
        refuse("a thread waits for it", "begin to iterate when no thread waits for it")
    size = region.end - region.start
    descriptor = os.memfd_create(EXCHANGED)
    os.ftruncate(descriptor, size)
    view = mmap.mmap(descriptor, size)
    python = ctypes.PyDLL(None, use_errno=True)  # its calls keep the interpreter's lock
    python.mmap.restype, python.memmove.restype = ctypes.c_void_p, ctypes.c_void_p
    to = ctypes.addressof(ctypes.c_char.from_buffer(view))
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | 0x10  # MAP_FIXED
    python.memmove(ctypes.c_void_p(to), ctypes.c_void_p(region.start), ctypes.c_size_t(size))
    made = python.mmap(
        ctypes.c_void_p(region.start), ctypes.c_size_t(size), protection, flags, descriptor, ctypes.c_long(0)
    )
    if made != region.start:
        os.close(descriptor)
        raise OSError(ctypes.get_errno(), "shared memory cannot be exchanged")
    weakref.finalize(owner, os.close, os.dup(descriptor))  # later iterators find it
    return descriptor


def _maps_elsewhere(inode: int) -> bool:
    wanted = f" {inode} ".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/maps", "rb") as file:
                if any(wanted in line and b"rw-s" in line for line in file):
                    return True
    return False
