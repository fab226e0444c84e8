"""Which batches a loader gave last: what tells a NaN's samples by their dataset indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader import torch_private

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["Delivered", "delivered"]


class Delivered(NamedTuple):
    """A batch that was delivered: what it was made of. ``indices`` is None for an iterable dataset."""

    epoch: int
    batch: int
    worker: int | None
    indices: list[Any] | None


def delivered(loader: DataLoader[Any], epoch: int, batch: int, worker: int | None, indices: Any) -> Delivered:
    """The public form of what the books hold."""
    if torch_private.is_iterable(loader):
        return Delivered(epoch, batch, worker, None)
    return Delivered(epoch, batch, worker, list(indices) if isinstance(indices, (list, tuple)) else [indices])
