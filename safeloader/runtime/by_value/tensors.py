"""How torch's tensors and storages go into a carried stream.

A tensor is a view of a storage, and a storage is memory: the memory goes out of band, once, however many
tensors look into it; a shared one goes as its descriptor. Everything else about tensors (subclasses,
parameters, sparse, nested and quantized ones) is left to torch's own reduction, which ends at the same
storages.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.multiprocessing import get_sharing_strategy, reductions

from safeloader import torch_private
from safeloader.runtime.by_value import rebuild
from safeloader.runtime.by_value.kinds import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

# Meta tensors have no memory and mean the same everywhere.
_ANYWHERE = ("cpu", "meta")
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class Storages(Protocol):
    """What a tensor's reduction needs of the pickler: a `safeloader.runtime.by_value.pickler.CarryPickler`."""

    inherit: bool

    def storage(self, storage: Any) -> Any:
        """The one object that stands for this memory."""


def handler_for(kind: type) -> Callable[[Any, Any], Any]:
    """Return the function that reduces objects of the torch class `kind`."""
    if issubclass(kind, torch.UntypedStorage):
        return _reduce_untyped
    if issubclass(kind, torch.TypedStorage):
        return _reduce_typed
    return _reduce_plain if kind is torch.Tensor else _reduce_tensor


def _reduce_tensor(_: Storages, tensor: torch.Tensor) -> Any:
    if tensor.device.type not in _ANYWHERE:
        _refuse_device(f"a tensor on {tensor.device}")
    if tensor.requires_grad and not tensor.is_leaf:
        raise RefusedError(
            "cannot pickle a tensor that is the result of a computation with gradients",
            hint="call .detach() on it, in the dataset or in the collate function",
        )
    return NotImplemented


def _reduce_plain(pickler: Storages, tensor: torch.Tensor) -> Any:
    """Short cut for the common case: torch's own reduction takes ten times as long."""
    common = (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_leaf
        and not (tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
        and not tensor.__dict__
    )
    if not common:
        reduced = _reduce_tensor(pickler, tensor)
        # torch's own way for sparse ones keeps what it rebuilds in a list for ever, for torch.load to look at.
        sparse = tensor.layout in _SPARSE and tensor.device.type == "cpu"
        return reductions.reduce_sparse_tensor(tensor) if sparse else reduced  # type: ignore[no-untyped-call]
    storage = pickler.storage(tensor.untyped_storage())
    shape = tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    return rebuild.tensor_over, (storage, tensor.dtype, *shape, tensor.requires_grad)


def _reduce_typed(pickler: Storages, storage: Any) -> Any:
    untyped = pickler.storage(torch_private.untyped(storage))
    return reductions.rebuild_typed_storage, (untyped, storage.dtype)


def _reduce_untyped(pickler: Storages, storage: torch.UntypedStorage) -> Any:
    if storage.device.type != "cpu":
        _refuse_device(f"memory on {storage.device}")
    canonical = pickler.storage(storage)
    if canonical is not storage:
        # Another object for the same memory: `_itself` makes it the same object again.
        return _itself, (canonical,)
    if pickler.inherit and storage.is_shared():
        return _reduce_shared(storage)
    if pickler.inherit:
        from safeloader.runtime.handles import shared_maps

        found = shared_maps.shared_storage(pickler, storage.data_ptr(), storage.nbytes())
        if found is not None:
            return shared_maps.storage_over, (*found, storage.nbytes())
    memory: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return rebuild.storage_over, (pickle.PickleBuffer(memory),)


def _reduce_shared(storage: torch.UntypedStorage) -> Any:
    strategy: Any = get_sharing_strategy
    if strategy() == "file_system":
        # torch's own reduction leaves a reference for one reader, who gives it up; here may be none or many.
        return rebuild.storage_by_name, torch_private.share_storage_by_name(storage)
    return reductions.reduce_storage(storage)  # type: ignore[no-untyped-call]


def _refuse_device(what: str) -> None:
    raise RefusedError(
        f"{what} belongs to this process",
        hint="keep the dataset on the CPU (tensor.cpu()) and move batches in the training loop",
    )


def _itself(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    return storage
