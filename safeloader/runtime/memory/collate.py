"""torch's default collate, told to put its result into the lease instead of a new file in ``/dev/shm``.

``torch.utils.data._utils.collate.default_collate_fn_map`` is torch's documented place for such a change; custom
collate functions that call ``default_collate`` gain as well. What it does to plain tensors is torch's own
``torch.stack(out=...)``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from safeloader import torch_private

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.runtime.memory.kept_memory import KeptMemory
    from safeloader.runtime.memory.slot_writer import SlotWriter

__all__ = ["collating_into"]

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
    _writer, _kept = writer, kept
    try:
        yield
    finally:
        table[torch.Tensor] = before
        _writer, _kept = writer_before, kept_before


def _collate_tensor(batch: Any, *, collate_fn_map: Any = None) -> Any:
    first = batch[0]
    if first.layout is not torch.strided or first.is_nested or first.is_quantized or first.device.type != "cpu":
        return _collate_privately(batch, collate_fn_map)
    return torch.stack(batch, 0, out=_room_for(first, (len(batch), *first.shape)))


def _room_for(first: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Where the batch goes: never nowhere, since ``out`` decides its strides and dtype, and refuses gradients."""
    writer = _writer
    if type(first) is torch.Tensor and writer is not None and writer.is_open and writer.in_place:
        count = shape[0] * first.numel()
        if count:
            return writer.tensor(first.dtype, count)[0].view(shape)
    if _kept is not None and type(first) is torch.Tensor and shape[0] * first.nbytes >= _kept.least:
        return _kept.tensor(first.dtype, shape)
    return first.new_empty(shape)


def _collate_privately(batch: Any, collate_fn_map: Any) -> Any:
    """torch's own function, which allocates shared memory only if it believes to be in a worker."""
    info = torch_private.get_worker_info()
    torch_private.put_worker_info(None)
    try:
        return torch_private.torch_collate_tensor(batch, collate_fn_map=collate_fn_map)
    finally:
        torch_private.put_worker_info(info)
