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

from safeloader import torch_private

__all__ = [
    "Found",
    "bad_leaves",
    "dense",
    "is_float",
    "leaves",
    "look",
    "matches",
    "norms",
    "not_finite",
    "rows_not_finite",
]

_DEEPEST = 32
_WHOLE = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Found:
    """A tensor, array or number that is not finite."""

    name: str
    nans: int
    infinities: int
    total: int

    def __str__(self) -> str:
        parts = [f"{count:,} {word}" for count, word in ((self.nans, "NaN"), (self.infinities, "Inf")) if count]
        return f"{self.name} ({' and '.join(parts)} of {self.total:,})" if parts else self.name


def norms(tensors: list[torch.Tensor]) -> list[float]:
    """The 2-norm of each: finite only if every entry is. An accelerator is waited for once."""
    if not tensors:
        return []
    if type(tensors[0]) in _WHOLE:
        try:  # nearly always they are alike, and asking each what it is would take as long as its norm
            return _values(torch_private.norms(tensors))
        except (RuntimeError, NotImplementedError):
            pass
    return _values(torch_private.norms([dense(tensor) for tensor in tensors]))


def _values(numbers: list[torch.Tensor]) -> list[float]:
    device = numbers[0].device
    if device.type == "cpu" and numbers[-1].device == device:
        return [number.item() for number in numbers]
    values: list[float] = torch.stack([number.to(device) for number in numbers]).tolist()
    return values


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """As a type and layout that torch can compute with; of a sharded tensor, this rank's part."""
    if type(tensor) not in _WHOLE and hasattr(tensor, "to_local"):  # torch.distributed.tensor.DTensor
        tensor = tensor.to_local()
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor.to_dense()
    return tensor.float() if tensor.itemsize == 1 else tensor  # float8 has no norm


def is_float(tensor: torch.Tensor) -> bool:
    """Whether it can hold a NaN. On the meta device there are no values."""
    return not tensor.is_meta and (tensor.is_floating_point() or tensor.is_complex())


def not_finite(
    value: Any, may_be_infinite: Iterable[str] = (), name: str = "", may_be_nan: Iterable[str] = ()
) -> list[Found]:
    """Everything in a nested value that is not finite.

    Args:
        value: tensors and arrays in any nesting.
        may_be_infinite: patterns of names in which infinities, not NaN, are meant.
        name: what to call the value.
        may_be_nan: patterns of names in which both are meant.
    """
    named = [(path, leaf) for path, leaf in leaves(value, name) if not isinstance(leaf, float)]
    patterns, skipped = tuple(may_be_infinite), tuple(may_be_nan)
    looked = (_look(path, leaf, patterns) for path, leaf in named if not matches(path, skipped))
    return [found for found in looked if found is not None]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits a pattern; one with brackets is meant as it stands, too: ``[1]`` is a place in a batch."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def look(name: str, leaf: Any) -> Found | None:
    """Look at one tensor, array or float."""
    return _look(name, leaf, ())


def _look(name: str, leaf: Any, may_be_infinite: tuple[str, ...]) -> Found | None:
    if isinstance(leaf, float):
        if math.isfinite(leaf) or (math.isinf(leaf) and matches(name, may_be_infinite)):
            return None
        return Found(name, int(math.isnan(leaf)), int(math.isinf(leaf)), 1)
    tensor = _as_tensor(leaf)
    if math.isfinite(*norms([tensor])):
        return None
    tensor = dense(tensor)
    nans, infinities = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    if matches(name, may_be_infinite):
        infinities = 0
    return Found(name, nans, infinities, tensor.numel()) if nans or infinities else None


def _as_tensor(leaf: Any) -> torch.Tensor:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    if not leaf.flags.writeable or any(stride < 0 for stride in leaf.strides) or not leaf.dtype.isnative:
        leaf = leaf.astype(leaf.dtype.newbyteorder("="))
    return torch.from_numpy(leaf)


def bad_leaves(
    batch: Any, may_be_infinite: tuple[str, ...] = (), may_be_nan: tuple[str, ...] = ()
) -> list[tuple[Found, Any]]:
    """What is not finite in a batch: each finding with the tensor, array or number itself."""
    if _plainly_fine(batch):
        return []
    named = list(leaves(batch))
    tensors = [leaf for _, leaf in named if isinstance(leaf, torch.Tensor)]
    if len(tensors) == len(named) and all(map(math.isfinite, norms(tensors))):
        return []
    named = [(name or "the batch", leaf) for name, leaf in named if not matches(name, may_be_nan)]
    looked = ((_look(name, leaf, may_be_infinite), leaf) for name, leaf in named)
    return [(bad, leaf) for bad, leaf in looked if bad is not None]


def _plainly_fine(batch: Any) -> bool:
    """True for a finite list or tuple of tensors, which most batches are: found without giving each tensor a name."""
    if type(batch) not in (list, tuple) or any(type(item) is not torch.Tensor for item in batch):
        return False
    return all(map(math.isfinite, norms([tensor for tensor in batch if is_float(tensor)])))


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
