"""Looking for what is not finite: a quick look over many tensors, and a slow one that names what it finds.

The quick look is sound in one direction: a finite norm has no NaN and no infinity in it. A norm can overflow while all
entries are finite, so what looks suspicious is looked at again, slowly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy
import torch

__all__ = ["Found", "dense", "leaves", "not_finite", "quick_norm", "rows_not_finite"]

_DEEPEST = 32
_total_norm: Any = getattr(torch.nn.utils, "get_total_norm", None)  # torch 2.6 and later


@dataclass(frozen=True)
class Found:
    """A tensor, array or number that is not finite."""

    name: str
    nans: int
    infinities: int
    total: int

    def __str__(self) -> str:
        parts = [f"{count:,} {word}" for count, word in ((self.nans, "NaN"), (self.infinities, "Inf")) if count]
        return f"{self.name} ({' and '.join(parts)} of {self.total:,})"


def quick_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The 2-norm over all of them, one number on the device of the first: finite only if every entry is."""
    usable = [dense(tensor) for tensor in tensors]
    if _total_norm is not None:
        total: torch.Tensor = _total_norm(usable)
        return total
    if not usable:
        return torch.tensor(0.0)
    norms = [torch.linalg.vector_norm(tensor).to(usable[0].device) for tensor in usable]
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """As a type and layout that torch can compute with."""
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor.to_dense()
    return tensor.float() if tensor.itemsize == 1 else tensor  # float8 has no norm


def is_float(tensor: torch.Tensor) -> bool:
    """Whether it can hold a NaN. On the meta device there are no values."""
    return not tensor.is_meta and (tensor.is_floating_point() or tensor.is_complex())


def not_finite(value: Any, may_be_infinite: Iterable[str] = (), name: str = "") -> list[Found]:
    """Everything in a nested value that is not finite.

    Args:
        value: tensors and arrays in any nesting.
        may_be_infinite: patterns of names in which infinities, not NaN, are meant.
        name: what to call the value.
    """
    named = [(path, leaf) for path, leaf in leaves(value, name) if not isinstance(leaf, float)]
    patterns = tuple(may_be_infinite)
    return [found for path, leaf in named if (found := _look(path, leaf, patterns)) is not None]


def look(name: str, leaf: Any) -> Found | None:
    """Look at one tensor, array or float."""
    return _look(name, leaf, ())


def _look(name: str, leaf: Any, may_be_infinite: tuple[str, ...]) -> Found | None:
    if isinstance(leaf, float):
        return None if math.isfinite(leaf) else Found(name, int(math.isnan(leaf)), int(math.isinf(leaf)), 1)
    tensor = _as_tensor(leaf)
    if bool(torch.isfinite(quick_norm([tensor]))):
        return None
    tensor = dense(tensor)
    nans, infinities = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    if any(fnmatchcase(name, pattern) for pattern in may_be_infinite):
        infinities = 0
    return Found(name, nans, infinities, tensor.numel()) if nans or infinities else None


def _as_tensor(leaf: Any) -> torch.Tensor:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    if not leaf.flags.writeable or any(stride < 0 for stride in leaf.strides) or not leaf.dtype.isnative:
        leaf = leaf.astype(leaf.dtype.newbyteorder("="))
    return torch.from_numpy(leaf)


def rows_not_finite(leaf: Any) -> list[int]:
    """The positions along the first dimension that hold something not finite; none for a single number."""
    if isinstance(leaf, float):
        return []
    tensor = dense(_as_tensor(leaf))
    if tensor.dim() == 0:
        return []
    bad = ~torch.isfinite(tensor).flatten(1).all(1) if tensor.dim() > 1 else ~torch.isfinite(tensor)
    rows: list[int] = torch.nonzero(bad).flatten().tolist()
    return rows


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, leaf) for each float tensor, float array and float in any nesting of containers and dataclasses."""
    return _leaves(value, name, 0, set())


def _leaves(value: Any, name: str, depth: int, above: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        if is_float(value):
            yield name, value
    elif isinstance(value, numpy.ndarray):
        if value.dtype.kind in "fc" and value.dtype.itemsize <= 16 and value.dtype != numpy.longdouble:
            yield name, value
    elif isinstance(value, float):
        yield name, float(value)
    elif isinstance(value, (str, bytes, int)) or value is None or depth >= _DEEPEST or id(value) in above:
        return
    else:
        above.add(id(value))
        for path, inner in _inside(value, name):
            yield from _leaves(inner, path, depth + 1, above)
        above.discard(id(value))


def _inside(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield _dotted(name, key) if isinstance(key, str) else f"{name}[{key!r}]", item
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((_dotted(name, key), item) for key, item in zip(value._fields, value, strict=True))
    elif isinstance(value, (list, tuple, AbstractSet)):
        yield from ((f"{name}[{number}]", item) for number, item in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        keys = [item.name for item in dataclasses.fields(value)]
        yield from ((_dotted(name, key), getattr(value, key, None)) for key in keys)
    elif type(value).__module__ != "builtins" and isinstance(getattr(value, "__dict__", None), dict):
        yield from ((_dotted(name, key), item) for key, item in vars(value).items())


def _dotted(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
