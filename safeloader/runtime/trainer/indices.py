"""What a sampler gives, kept as it was when it was drawn, and sent with nothing else.

A sampler may give the same list again and again, with other numbers in it: torch's loader has a thread that pickles
what was drawn, soon after. And it may give views: an index out of ``torch.randperm(n)`` refers to the whole
permutation, which a pickle would carry along. So what is drawn is copied at once, tensors with their own elements only.
"""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy
import torch

__all__ = ["own_copy", "pack", "rebuild_elements", "rebuild_tensor"]

_INT = frozenset({int})
_TENSOR = frozenset({torch.Tensor})
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})


def own_copy(indices: Any) -> Any:
    """The same indices, of the same types, with memory of their own."""
    kind = type(indices)
    if kind in _PLAIN or isinstance(indices, numpy.generic):
        return indices
    if kind is list:
        return _copy_of_list(indices)
    if kind is tuple:
        return tuple([own_copy(one) for one in indices])
    if kind is dict:
        return {own_copy(key): own_copy(value) for key, value in indices.items()}
    if kind is numpy.ndarray and not indices.dtype.hasobject:
        return indices.copy(order="K")
    if _is_plain(indices):
        return indices.clone()
    return _copy_of_object(indices)


def _copy_of_list(indices: list[Any]) -> list[Any]:
    if _INT.issuperset(map(type, indices)):
        return indices[:]
    together = _stacked(indices)
    return [own_copy(one) for one in indices] if together is None else list(together.unbind())


def _stacked(indices: list[Any]) -> torch.Tensor | None:
    """Single elements of one type, as samplers draw them out of a permutation: one copy for all."""
    if not _TENSOR.issuperset(map(type, indices)) or not _is_plain(indices[0]):
        return None
    dtype = indices[0].dtype
    if any(one.dim() or one.dtype is not dtype for one in indices):
        return None
    try:
        together = torch.stack(indices)
    except RuntimeError:  # on several devices
        return None
    return together if _is_plain(together) else None


def _copy_of_object(indices: Any) -> Any:
    """What pickle makes of it, as torch's workers get it; else a copy; else itself."""
    try:
        return pickle.loads(pack(indices))
    except Exception:  # say, its class is local
        pass
    try:
        return copy.deepcopy(indices)
    except Exception:  # say, it holds a lock
        return indices


def pack(indices: Any) -> bytes:
    """Serialise: tensors with their own elements, whatever they are views of."""
    together = _stacked(indices) if type(indices) is list and indices else None
    if together is not None:
        indices = _Elements(together)
    stream = io.BytesIO()
    _Packer(stream, protocol=5).dump(indices)
    return stream.getvalue()


class _Elements:
    """A list of single elements, serialised as one tensor."""

    def __init__(self, together: torch.Tensor) -> None:
        self._together = together

    def __reduce__(self) -> Any:
        return rebuild_elements, _parts(self._together)


def rebuild_elements(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """The list of tensors without dimensions."""
    return list(rebuild_tensor(data, dtype, shape).unbind())


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return (rebuild_tensor, _parts(value)) if _is_plain(value) else NotImplemented


def _is_plain(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not (value.requires_grad or value.is_quantized or value.is_nested or value.is_conj() or value.is_neg())
    )


def _parts(tensor: torch.Tensor) -> tuple[bytes, torch.dtype, tuple[int, ...]]:
    flat = tensor.reshape(-1).contiguous()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"", tensor.dtype, tuple(tensor.shape)


def rebuild_tensor(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor with these elements."""
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
