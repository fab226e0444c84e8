"""Where buffers go in the file: those that overlap in the trainer's memory overlap there, too.

An array and views of it, or an array and a tensor over it, are pickled one by one. In the file they are one piece of
memory again, so a worker that writes to one sees it in the others, as in the trainer and as with fork, and a thousand
windows of an array take no more room than the array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["place"]

_LINE = 64  # bytes; what vector instructions want, and what torch's own allocator gives
_PAGE = 4096  # bytes; a big buffer on its own pages: a write to it copies none of its neighbour's
_BIG = 65536  # bytes

_Group = list[tuple[int, int]]  # address and number of each


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
    import numpy

    known = sorted(
        (int(numpy.frombuffer(buffer, numpy.uint8).__array_interface__["data"][0]), number)
        for number, buffer in enumerate(buffers)
        if buffer.nbytes
    )
    groups: list[_Group] = [[(0, number)] for number, buffer in enumerate(buffers) if not buffer.nbytes]
    end = -1
    for address, number in known:
        if address >= end:
            groups.append([])
        groups[-1].append((address, number))
        end = max(end, address + buffers[number].nbytes)
    return iter(sorted(groups, key=lambda group: min(number for _, number in group)))
