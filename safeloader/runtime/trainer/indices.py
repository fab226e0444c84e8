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

from safeloader.runtime.memory.registered import reducer_of

__all__ = ["own_copy", "pack", "rebuild_elements", "rebuild_tensor"]

_TENSOR = frozenset({torch.Tensor})
_WIDEST = 16 << 20  # bytes; what lies further apart comes out without what is between it
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})


def own_copy(indices: Any) -> Any:
    """The same indices as torch's workers get them, with memory of their own."""
    kind = type(indices)
    if kind in _PLAIN:
        return indices
    if kind is list:
        if all(map(_is_fixed, set(map(type, indices)))):
            return indices[:]
        together = _stacked(indices)
        if together is not None:
            return list(together.unbind())
    return indices.clone() if _is_plain(indices) and indices.is_contiguous() else _copy_of_object(indices)


def _is_fixed(kind: type) -> bool:
    """True for types of numbers and text, whose objects never change; a ``numpy.void`` may be a view."""
    return kind in _PLAIN or (issubclass(kind, numpy.generic) and not issubclass(kind, numpy.void))


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
    """Serialise by Python's default protocol, as torch does; but tensors with their own elements, whatever they are
    views of.
    """
    together = _stacked(indices) if type(indices) is list and indices else None
    if together is not None:
        indices = _Elements(together)
    stream = io.BytesIO()
    _Packer(stream).dump(indices)
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
        registered = reducer_of(type(value))
        if registered is not None:
            return registered(value)
        return (rebuild_tensor, _parts(value)) if _is_plain(value) else NotImplemented


def _is_plain(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not (value.requires_grad or value.is_quantized or value.is_nested or value.is_conj() or value.is_neg())
    )


def _parts(tensor: torch.Tensor) -> tuple[Any, ...]:
    shape, stride = tuple(tensor.shape), tensor.stride()
    flat = _once(tensor, shape, stride).reshape(-1).contiguous()
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    plain = tensor.is_contiguous() and 1 not in shape  # a dimension of one has any stride
    if data and (plain or _span(shape, stride) * tensor.itemsize > _WIDEST):
        return data, tensor.dtype, shape
    return data, tensor.dtype, shape, stride


def rebuild_tensor(
    data: bytes, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...] | None = None
) -> torch.Tensor:
    """The tensor with these elements, where they lay: no view, as with torch's workers."""
    if not data:
        return torch.empty_strided(shape, stride or (), dtype=dtype)
    if stride is None:
        return torch.frombuffer(bytearray(data), dtype=dtype).resize_(shape)
    memory, words = bytearray(_span(shape, stride) * dtype.itemsize), _WORDS[dtype.itemsize]
    once = _once(torch.frombuffer(memory, dtype=words).as_strided(shape, stride), shape, stride)
    once.copy_(torch.frombuffer(bytearray(data), dtype=words).reshape(once.shape))
    return torch.frombuffer(memory, dtype=dtype).as_strided_(shape, stride)


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def _once(tensor: torch.Tensor, shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Without what an expanded tensor repeats."""
    for dim, step in enumerate(stride):
        if step == 0 and shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor
