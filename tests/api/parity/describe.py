"""Takes a batch apart into plain tuples: type, structure, dtype, shape, strides, bytes. Equal means the same batch."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import hashlib
import pathlib
import types
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["describe"]

_PRINTED = (
    bool, int, float, complex, type, range, slice, enum.Enum, pathlib.PurePath, datetime.datetime, decimal.Decimal,
    uuid.UUID, torch.dtype,
)  # fmt: skip
_SHORT = 256  # bytes; longer content is compared by its hash


def describe(value: Any) -> Any:
    """Everything about a value that a consumer can see, as nested tuples of plain values."""
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, torch.Tensor):
        return (name, *_tensor(value))
    if isinstance(value, np.ndarray):
        return (name, *_array(value))
    if isinstance(value, (torch.UntypedStorage, torch.TypedStorage)):
        return name, str(getattr(value, "dtype", "")), value.tolist()
    if isinstance(value, (np.generic, torch.Size)):
        return name, repr(getattr(value, "dtype", "")), repr(value)
    if isinstance(value, (str, bytes, bytearray)):
        return name, _content(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value))
    if value is None or isinstance(value, _PRINTED):
        return name, repr(value)
    if isinstance(value, types.FunctionType):
        return name, value.__module__, value.__qualname__
    return (name, *_container(value))


def _container(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        extra = repr(value.default_factory) if isinstance(value, collections.defaultdict) else ""
        return extra, tuple((describe(key), describe(value[key])) for key in value), _attributes(value)
    if isinstance(value, (list, tuple, collections.deque)):
        return tuple(describe(item) for item in value), _attributes(value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(map(describe, value), key=repr))
    if dataclasses.is_dataclass(value):
        return tuple((field.name, describe(getattr(value, field.name))) for field in dataclasses.fields(value))
    if isinstance(value, BaseException):
        return (str(value),)
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # a picture of Pillow's
        return value.mode, value.size, _content(value.tobytes())
    return _attributes(value)


def _attributes(value: Any) -> tuple[Any, ...]:
    names = [*getattr(value, "__dict__", {}), *getattr(type(value), "__slots__", ())]
    return tuple((name, describe(getattr(value, name))) for name in names if hasattr(value, name))


def _tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    attributes = tuple((key, describe(item)) for key, item in tensor.__dict__.items())
    plain = tensor.detach()
    if type(plain) is not torch.Tensor:
        plain = plain.as_subclass(torch.Tensor)
    common = str(tensor.dtype), str(tensor.layout), str(tensor.device), tensor.requires_grad, tensor.is_leaf, attributes
    if plain.is_nested:
        return *common, "nested", tuple(describe(part) for part in plain.unbind())
    shape = tuple(plain.shape)
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return *common, shape  # its attributes are what it wraps
    if plain.layout is torch.sparse_coo:
        parts = plain._indices(), plain._values()
        return *common, shape, plain.is_coalesced(), tuple(map(describe, parts))
    if plain.layout in (torch.sparse_csr, torch.sparse_bsr):
        return *common, shape, tuple(map(describe, (plain.crow_indices(), plain.col_indices(), plain.values())))
    if plain.layout is torch.sparse_csc:
        return *common, shape, tuple(map(describe, (plain.ccol_indices(), plain.row_indices(), plain.values())))
    if plain.is_quantized:
        scale = plain.q_scale(), plain.q_zero_point()
        return *common, shape, plain.stride(), scale, _content(plain.int_repr().numpy().tobytes())
    view = plain._is_view() if type(tensor) is torch.Tensor else None
    flat = plain.resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
    flags = plain.is_conj(), plain.is_neg(), view
    return *common, shape, plain.stride(), flags, _content(flat.numpy().tobytes())


def _array(array: Any) -> tuple[Any, ...]:
    flags = array.flags.c_contiguous, array.flags.f_contiguous, array.flags.writeable
    attributes = tuple((key, describe(item)) for key, item in getattr(array, "__dict__", {}).items() if key[0] != "_")
    if array.dtype.hasobject:
        content: Any = tuple(describe(item) for item in array.ravel().tolist())
    else:
        content = _content(array.tobytes())
    return repr(array.dtype), repr(array.dtype.metadata), array.shape, array.strides, flags, attributes, content


def _content(data: bytes) -> Any:
    return data if len(data) <= _SHORT else (len(data), hashlib.sha256(data).hexdigest())
