"""torch's default collate, told to put its result into the lease instead of a new file in ``/dev/shm``.

``torch.utils.data._utils.collate.default_collate_fn_map`` is torch's documented place for such a change; custom collate
functions that call ``default_collate`` gain as well. What it does to plain tensors is the same ``torch.stack(out=...)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .. import torch_private

if TYPE_CHECKING:
    from .codec import LeaseWriter

__all__ = ["collating_into"]

_writer: LeaseWriter | None = None


@contextmanager
def collating_into(writer: LeaseWriter | None) -> Iterator[None]:
    """Within this context default collation writes into the writer's open lease; with None, into ordinary memory."""
    global _writer
    table = torch_private.default_collate_fn_map
    before, writer_before = table[torch.Tensor], _writer
    table[torch.Tensor] = _collate_tensor
    _writer = writer
    try:
        yield
    finally:
        table[torch.Tensor] = before
        _writer = writer_before


def _collate_tensor(batch: Any, *, collate_fn_map: Any = None) -> Any:
    first = batch[0]
    writer = _writer
    if (
        writer is None
        or not writer.is_open
        or not writer.in_place
        or type(first) is not torch.Tensor
        or first.layout is not torch.strided
        or first.is_nested
        or first.device.type != "cpu"
    ):
        return _collate_privately(batch, collate_fn_map)
    count = sum(x.numel() for x in batch)
    shape = (len(batch), *first.shape)
    if count == 0 or count != first.numel() * len(batch):
        return _collate_privately(batch, collate_fn_map)
    flat, _ = writer.tensor(first.dtype, count)
    return torch.stack(batch, 0, out=flat.view(shape))


def _collate_privately(batch: Any, collate_fn_map: Any) -> Any:
    """torch's own function, which allocates shared memory only if it believes to be in a worker."""
    info = torch_private.get_worker_info()
    torch_private.put_worker_info(None)
    try:
        return torch_private.torch_collate_tensor(batch, collate_fn_map=collate_fn_map)
    finally:
        torch_private.put_worker_info(info)
