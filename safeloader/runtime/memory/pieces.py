"""Where the out-of-band pieces of one batch lie in the lease.

Tensors that look into one memory do so in the consumer's batch, too, as with torch's workers: what overlaps is there
once. Arrays have a copy each, as with torch's workers, who send them by value. So tensors, and arrays that lie in the
lease already, are only noted while the batch is pickled, and placed when all are known.
"""

from __future__ import annotations

import ctypes
import pickle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

__all__ = ["Pieces", "Writer"]

_Array = numpy.ndarray[Any, Any]
_Order = Literal["C", "F", "K"]

_LINE = 64  # bytes


class Writer(Protocol):
    """Memory that a batch is put into, piece after piece; pieces are named by their offset."""

    def tensor(self, dtype: torch.dtype, count: int) -> tuple[torch.Tensor, int]: ...
    def room(self, nbytes: int) -> tuple[memoryview, int]: ...
    def write(self, data: memoryview | bytes) -> int: ...
    def offset_of(self, address: int, nbytes: int) -> int | None: ...


class _Noted(NamedTuple):
    """A tensor or an array whose place is not known yet."""

    address: int
    number: int  # in the order of the pieces
    nbytes: int
    thing: Any


class Pieces:
    """The pieces of one batch. Apart from the pickler, which would else refer to itself and keep the batch until the
    next garbage collection.

    Args:
        writer: where they go.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._places: list[tuple[int, int]] = []
        self._noted: list[_Noted] = []
        self._marks: dict[int, tuple[int, int, Any]] = {}

    def add(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's callback for each buffer, in order. What is no mark stays in the stream, as with torch's workers."""
        mark = self._marks.pop(id(buffer), None)
        if mark is None:
            return True
        address, nbytes, thing = mark
        if thing is not None:
            self._noted.append(_Noted(address, len(self._places), nbytes, thing))
        self._places.append((address, nbytes))
        return False

    def tensor(self, tensor: torch.Tensor, span: int) -> pickle.PickleBuffer:
        """A tensor's ``span`` elements from its first on; the buffer only marks the place."""
        return self._mark(tensor.data_ptr(), span * tensor.dtype.itemsize, tensor)

    def array(self, array: _Array, dtype: numpy.dtype[Any], order: _Order) -> pickle.PickleBuffer:
        """An array, which becomes contiguous; the buffer only marks the place.

        Args:
            array: it goes by value.
            dtype: what its elements become.
            order: what its axes become; ``"K"``: they stay, and nothing lies between its elements.
        """
        if dtype is array.dtype and (order == "K" or array.flags.c_contiguous or array.flags.f_contiguous):
            address = array.__array_interface__["data"][0]
            if self._writer.offset_of(address, array.nbytes) is not None:
                return self._mark(address, array.nbytes, array)
        return self._mark(self._copied(array, dtype, order), array.nbytes, None)

    def placed(self) -> list[tuple[int, int]]:
        """Put there what is not: (offset, bytes) of all, in order."""
        for group in self._overlapping():
            if len(group) > 1:
                self._place_together(group)
            else:
                self._place(*group)
        return self._places

    def _mark(self, address: int, nbytes: int, thing: Any) -> pickle.PickleBuffer:
        buffer = pickle.PickleBuffer(bytearray())
        self._marks[id(buffer)] = address, nbytes, thing
        return buffer

    def _copied(self, array: _Array, dtype: numpy.dtype[Any], order: _Order) -> int:
        if dtype is array.dtype and (order == "K" or array.flags.forc):  # with what lies between a record's fields
            return self._writer.write(array.ravel(order="K").view(numpy.uint8).data)
        memory, offset = self._writer.room(array.nbytes)
        numpy.copyto(numpy.ndarray(array.shape, dtype, memory, order="F" if order == "F" else "C"), array)
        return offset

    def _overlapping(self) -> Iterator[list[_Noted]]:
        """Those whose memory overlaps, together."""
        group: list[_Noted] = []
        end = 0
        for noted in sorted(self._noted, key=_place_of):
            if group and noted.address >= end:
                yield group
                group = []
            group.append(noted)
            end = max(end, noted.address + noted.nbytes)
        if group:
            yield group

    def _place(self, noted: _Noted) -> None:
        offset = self._writer.offset_of(noted.address, noted.nbytes)
        if offset is None:
            tensor = noted.thing.detach()
            span = noted.nbytes // tensor.dtype.itemsize
            flat, offset = self._writer.tensor(tensor.dtype, span)
            flat.copy_(tensor.reshape(-1) if tensor.is_contiguous() else tensor.as_strided((span,), (1,)))
        self._places[noted.number] = offset, noted.nbytes

    def _place_together(self, group: list[_Noted]) -> None:
        """Their memory once, and each where it lies in it; but arrays go by value."""
        start, end = group[0].address, max(noted.address + noted.nbytes for noted in group)
        offset = self._writer.offset_of(start, end - start)
        if offset is None:
            skew = start % _LINE  # each is aligned as it was
            memory, offset = self._writer.room(skew + end - start)
            offset += skew
            ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + skew, start, end - start)
        for noted in group:
            thing, at = noted.thing, offset + noted.address - start
            if isinstance(thing, numpy.ndarray):
                at = self._copied(thing, thing.dtype, "K")
            self._places[noted.number] = at, noted.nbytes


def _place_of(noted: _Noted) -> tuple[int, int]:
    return noted.address, noted.number
