"""Ordinary memory for batches that the trainer makes itself, in the place of a lease; large pieces are used again.

The C library gives pieces of more than 32 MB back to the system when they are freed, and the next batch then pays for
every page of its memory anew: five times what the copying costs. So a few pieces are kept here.

A piece is lent as an array, the *anchor*, that all views of it refer to: tensors, arrays, memoryviews, DLPack capsules.
When the last of them dies, so does the anchor, and a weak reference's callback puts the piece back.
"""

from __future__ import annotations

import bisect
import itertools
import weakref
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy
import torch

from safeloader import torch_private

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KeptMemory", "PrivateMemory", "has_large", "keeping"]


_MOST = 4  # pieces that wait to be used again; the consumer has one batch while the next is made

Array = Any


class KeptMemory:
    """Pieces of memory of one loader.

    Attributes:
        least: bytes from which on memory is kept: what is smaller, the C library keeps.
    """

    least = 32 << 20

    def __init__(self) -> None:
        self._free: deque[Array] = deque(maxlen=_MOST)
        self._lent: dict[int, tuple[weakref.ref[Array], Array]] = {}
        self._numbers = itertools.count()

    def lend(self, nbytes: int) -> Array:
        """An array of so many bytes, which nobody else has."""
        piece = self._take(nbytes)
        anchor = numpy.frombuffer(piece.data, dtype=numpy.uint8, count=nbytes)
        number, free, lent = next(self._numbers), self._free, self._lent

        def back(_: Any) -> None:  # in any thread, inside anything: each step is one call into C
            free.append(lent.pop(number)[1])

        lent[number] = weakref.ref(anchor, back), piece
        return anchor

    def _take(self, nbytes: int) -> Array:
        for _ in range(len(self._free)):
            try:
                piece = self._free.popleft()
            except IndexError:  # another thread took it
                break
            if nbytes <= piece.nbytes <= 2 * nbytes:
                return piece
            self._free.append(piece)
        return numpy.empty(nbytes, dtype=numpy.uint8)

    def tensor(self, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """An uninitialised tensor, no view of another."""
        return torch.frombuffer(self.lend(_nbytes(dtype, shape)), dtype=dtype).resize_(shape)


def _nbytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    count = dtype.itemsize
    for size in shape:
        count *= size
    return count


def has_large(batch: Any, depth: int = 4) -> bool:
    """Whether a batch has a tensor so large, as far as default collation nests them."""
    if type(batch) is torch.Tensor:
        return batch.layout is torch.strided and batch.nbytes >= KeptMemory.least
    if not depth:
        return False
    items = batch.values() if type(batch) is dict else batch if type(batch) in (list, tuple) else ()
    return any(has_large(item, depth - 1) for item in items)


_kept: KeptMemory | None = None


@contextmanager
def keeping(kept: KeptMemory) -> Iterator[None]:
    """Within this context torch's default collation of large batches writes into kept memory, if that changes nothing
    of what it makes."""
    global _kept
    table = torch_private.default_collate_fn_map
    before, kept_before = table[torch.Tensor], _kept
    if before is not torch_private.torch_collate_tensor and before is not _collate_tensor:
        yield  # somebody's own
        return
    table[torch.Tensor], _kept = _collate_tensor, kept
    try:
        yield
    finally:
        table[torch.Tensor], _kept = before, kept_before


def _collate_tensor(batch: Any, *, collate_fn_map: Any = None) -> Any:
    kept, first = _kept, batch[0]
    shape = (len(batch), *first.shape)
    if kept is None or torch_private.get_worker_info() is not None or _nbytes(first.dtype, shape) < kept.least:
        return torch_private.torch_collate_tensor(batch, collate_fn_map=collate_fn_map)
    if not all(_is_plain(sample, first) for sample in batch):
        return torch_private.torch_collate_tensor(batch, collate_fn_map=collate_fn_map)
    return torch.stack(batch, 0, out=kept.tensor(first.dtype, shape))


def _is_plain(sample: torch.Tensor, first: torch.Tensor) -> bool:
    """Whether stacking it needs nothing but copying."""
    return (
        type(sample) is torch.Tensor
        and sample.layout is torch.strided
        and sample.device.type == "cpu"
        and sample.dtype is first.dtype
        and sample.shape == first.shape
        and not (sample.requires_grad or sample.is_quantized or sample.is_conj() or sample.is_neg())
        and sample.is_contiguous()
    )


class PrivateMemory:
    """Pieces of memory, addressed as if they lay behind one another in a lease. Each dies with its last view.

    What lies here went through the same codec as all others: so it has the same strides, shares nothing with the
    dataset (which the consumer would change by changing its batch), and what cannot be carried is the same error on
    every rung.

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
