"""Where buffers go in the file: those that overlap in the trainer's memory overlap there, too.

An array and views of it, or an array and a tensor over it, are pickled one by one. In the file they are one piece of
memory again, so a worker that writes to one sees it in the others, as in the trainer and as with fork, and a thousand
windows of an array take no more room than the array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["OutOfBand", "place"]

_LINE = 64  # bytes; what vector instructions want, and what torch's own allocator gives
_PAGE = 4096  # bytes; a big buffer on its own pages: a write to it copies none of its neighbour's
_BIG = 65536  # bytes

# Below this size a buffer is cheaper inside the stream than with an entry of its own. Bytes.
_IN_BAND = 1024
_MOST_PIECES = 10_000  # of which it is looked whether they overlap

_Piece = tuple[int, int]  # where it begins in memory, and its bytes
_Group = list[tuple[int, int]]  # address and number of each


class OutOfBand:
    """Which buffers of a pickle lie beside its stream: the big ones, and small ones that others look into as well.

    That is known when all have been seen; then the object is to be pickled once more (`has_missed`).

    Args:
        add: takes one that does.
    """

    def __init__(self, add: Callable[[memoryview], None]) -> None:
        self._add = add
        self._pieces: list[_Piece] = []
        self._together: set[_Piece] = set()

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """True for one that stays in the stream."""
        raw = buffer.raw()
        if raw.nbytes and len(self._pieces) < _MOST_PIECES:
            self._pieces.append((_address(raw), raw.nbytes))
        if raw.nbytes < _IN_BAND and not (self._together and (_address(raw), raw.nbytes) in self._together):
            return True
        self._add(raw)
        return False

    def has_missed(self) -> bool:
        """True if one that stayed in the stream overlaps another; it will not the next time."""
        self._together = {piece for piece in _overlapping(self._pieces) if piece[1] < _IN_BAND}
        self._pieces.clear()
        return bool(self._together)


def place(buffers: Sequence[memoryview], position: int) -> tuple[list[int], list[tuple[int, memoryview]], int]:
    """Lay buffers out, from a position on.

    Returns:
        Where each starts; what is written where, in order; where it ends.
    """
    starts, pieces = [0] * len(buffers), []
    for group in _groups(buffers):
        address, length = group[0][0], max(at + buffers[number].nbytes for at, number in group) - group[0][0]
        if length:
            position = aligned(position, _PAGE if length >= _BIG else _LINE)
        if len(group) > 1:
            position += address % _LINE  # each is aligned as it is in the trainer
        written = 0
        for at, number in group:
            begin, buffer = at - address, buffers[number]
            starts[number] = position + begin
            if begin + buffer.nbytes > written:
                pieces.append((position + written, buffer[written - begin :]))
                written = begin + buffer.nbytes
        position += length
    return starts, pieces, position


def aligned(position: int, step: int) -> int:
    """The next position that is a multiple of a step."""
    return -(-position // step) * step


def _groups(buffers: Sequence[memoryview]) -> Iterator[_Group]:
    """Those that overlap, together and by their addresses; all in the order of the first of each group."""
    known = sorted((_address(buffer), number) for number, buffer in enumerate(buffers) if buffer.nbytes)
    groups: list[_Group] = [[(0, number)] for number, buffer in enumerate(buffers) if not buffer.nbytes]
    end = -1
    for address, number in known:
        if address >= end:
            groups.append([])
        groups[-1].append((address, number))
        end = max(end, address + buffers[number].nbytes)
    return iter(sorted(groups, key=lambda group: min(number for _, number in group)))


def _overlapping(pieces: Iterable[_Piece]) -> set[_Piece]:
    """Those of some pieces of memory (where each begins and its bytes) that share bytes with another one."""
    found: set[_Piece] = set()
    last, end = (0, 0), 0
    for address, size in sorted(pieces):
        if address < end:
            found |= {last, (address, size)}
        if address + size > end:
            last, end = (address, size), address + size
    return found


def _address(buffer: memoryview) -> int:
    """Where it begins in memory."""
    import numpy

    return int(numpy.frombuffer(buffer, numpy.uint8).__array_interface__["data"][0])
