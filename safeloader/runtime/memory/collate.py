"""torch's default collate, told to put its result into the lease instead of a new file in ``/dev/shm``.

``torch.utils.data._utils.collate.default_collate_fn_map`` is torch's documented place for such a change; custom
collate functions that call ``default_collate`` gain as well. What it does to plain tensors is torch's own
``torch.stack(out=...)``. Of small arrays of one kind torch makes tensors first, one by one, which takes longer than all
else that is done to them: they are put together by one call.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy
import torch

from safeloader import torch_private

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.runtime.memory.kept_memory import KeptMemory
    from safeloader.runtime.memory.slot_writer import SlotWriter

__all__ = ["collating_into"]

_DTYPES = {
    numpy.dtype(name): getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"),
        *("complex64", "complex128"),
    )
}
_ARRAY = frozenset({numpy.ndarray})
_SMALL = 1 << 14  # bytes of an array: with larger ones the time goes into copying
_WRITABLE = 0x400  # NPY_ARRAY_WRITEABLE
_CONTIGUOUS = 0x1  # NPY_ARRAY_C_CONTIGUOUS: where no dimension is one, dtype and shape give the strides
_kind_of = attrgetter("dtype", "shape", "flags.num")
_kind_and_strides_of = attrgetter("dtype", "shape", "flags.num", "strides")

_writer: SlotWriter | None = None
_kept: KeptMemory | None = None


@contextmanager
def collating_into(writer: SlotWriter | None, kept: KeptMemory | None = None) -> Iterator[None]:
    """Within this context default collation writes into the writer's open lease; with None, into ordinary memory, of
    which large pieces may be kept."""
    global _writer, _kept
    table = torch_private.default_collate_fn_map
    before, writer_before, kept_before = table[torch.Tensor], _writer, _kept
    table[torch.Tensor] = _collate_tensor
    ours = table.get(numpy.ndarray) is torch_private.torch_collate_array  # else somebody's own
    if ours:
        table[numpy.ndarray] = _collate_array
    _writer, _kept = writer, kept
    try:
        yield
    finally:
        table[torch.Tensor] = before
        if ours and table.get(numpy.ndarray) is _collate_array:
            table[numpy.ndarray] = torch_private.torch_collate_array
        _writer, _kept = writer_before, kept_before


def _collate_tensor(batch: Any, *, collate_fn_map: Any = None) -> Any:
    first = batch[0]
    if first.layout is not torch.strided or first.is_nested or first.is_quantized or first.device.type != "cpu":
        return _collate_privately(batch, collate_fn_map)
    return torch.stack(batch, 0, out=_room_for(first, (len(batch), *first.shape)))


def _collate_array(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """Small arrays that torch would make one tensor of without a word: it by one call. All others as torch does it."""
    first = batch[0]
    dtype = _DTYPES.get(first.dtype)
    if (
        dtype is None
        or not first.ndim
        or not 0 < first.nbytes <= _SMALL
        or not _ARRAY.issuperset(map(type, batch))
        or not _is_quiet(first)
        or len(set(map(_kind_of if _has_usual_strides(first) else _kind_and_strides_of, batch))) > 1
        or collate_fn_map is None
        or collate_fn_map.get(torch.Tensor) is not _collate_tensor  # that is whom torch has stack them
        or torch_private.has_modes()
    ):
        return torch_private.torch_collate_array(batch, collate_fn_map=collate_fn_map)
    made = _room(dtype, (len(batch), *first.shape))
    numpy.concatenate(batch, out=made.numpy().reshape(-1, *first.shape[1:]))
    return made


def _has_usual_strides(array: Any) -> bool:
    return bool(array.flags.num & _CONTIGUOUS) and 1 not in array.shape


def _is_quiet(array: Any) -> bool:
    """True if torch makes a tensor of it and neither warns nor raises."""
    size = array.itemsize
    return bool(array.flags.num & _WRITABLE) and all(step >= 0 and step % size == 0 for step in array.strides)


def _room(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    writer = _writer
    count = math.prod(shape)
    if writer is not None and writer.is_open and writer.in_place:
        return writer.tensor(dtype, count)[0].view(shape)
    if _kept is not None and count * dtype.itemsize >= _kept.least:
        return _kept.tensor(dtype, shape)
    return torch.empty(shape, dtype=dtype)


def _room_for(first: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Where the batch goes: never nowhere, since ``out`` decides its strides and dtype, and refuses gradients."""
    if type(first) is not torch.Tensor or not first.numel():
        return first.new_empty(shape)
    return _room(first.dtype, shape)


def _collate_privately(batch: Any, collate_fn_map: Any) -> Any:
    """torch's own function, which allocates shared memory only if it believes to be in a worker."""
    info = torch_private.get_worker_info()
    torch_private.put_worker_info(None)
    try:
        return torch_private.torch_collate_tensor(batch, collate_fn_map=collate_fn_map)
    finally:
        torch_private.put_worker_info(info)
