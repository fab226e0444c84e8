"""Arrays that lie in a memory file of their own, which workers map: one memory for the trainer and all of them.

The trainer's mapping is private, as each worker's is: what one of them writes, no other sees. What goes to workers is
the file, as long as the array still holds what is in it; where the trainer has changed it, its contents go, as of any
array.
"""

from __future__ import annotations

import itertools
import mmap
import os
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.runtime import system

if TYPE_CHECKING:
    import numpy
    import torch

__all__ = ["array_in_file", "find", "tensor_in_file"]

_CHUNK = 1 << 24  # bytes that are compared at a time


class _File(NamedTuple):
    """One file.

    Attributes:
        start, size: where it is mapped here.
        descriptor: it.
    """

    start: int
    size: int
    descriptor: int


_files: dict[int, _File] = {}
_count = itertools.count()


def array_in_file(array: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """The same array, in a memory file."""
    import numpy

    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = numpy.ravel(array, order=order)
    there: Any = numpy.frombuffer(_mapped(flat.view(numpy.uint8)), numpy.uint8)
    made: numpy.ndarray[Any, Any] = there.view(array.dtype).reshape(array.shape, order=order)
    return made


def tensor_in_file(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor, in a memory file."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    memory = _mapped(flat.view(torch.uint8).numpy())
    return torch.frombuffer(memory, dtype=tensor.dtype).reshape(tensor.shape)


def _mapped(contents: Any) -> mmap.mmap:
    import numpy

    descriptor = system.memory_file("array")
    try:
        with system.larger_files():
            at = 0
            while at < contents.nbytes:
                at += os.write(descriptor, contents[at : at + _CHUNK])
        system.seal(descriptor)
        memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    except BaseException:
        os.close(descriptor)
        raise
    start = int(numpy.frombuffer(memory, numpy.uint8).__array_interface__["data"][0])
    number = next(_count)
    _files[number] = _File(start, contents.nbytes, descriptor)
    weakref.finalize(memory, _forget, number).atexit = False
    return memory


def _forget(number: int) -> None:
    os.close(_files.pop(number).descriptor)


def find(memory: memoryview) -> tuple[int, int] | None:
    """The file in which this memory lies, and where in it, if it still holds what is there."""
    if not _files or not memory.nbytes:
        return None
    import numpy

    here = numpy.frombuffer(memory, numpy.uint8)
    address = int(here.__array_interface__["data"][0])
    for file in list(_files.values()):
        offset = address - file.start
        if offset >= 0 and offset + memory.nbytes <= file.size:
            return (file.descriptor, offset) if _is_unchanged(here, file, offset) else None
    return None


def _is_unchanged(here: Any, file: _File, offset: int) -> bool:
    import numpy

    with mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ) as whole:
        there = numpy.frombuffer(whole, numpy.uint8)[offset : offset + len(here)]
        try:
            parts = range(0, len(here), _CHUNK)
            return all(numpy.array_equal(here[at : at + _CHUNK], there[at : at + _CHUNK]) for at in parts)
        finally:
            del there
