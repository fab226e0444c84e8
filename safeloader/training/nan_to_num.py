"""A copy of a nested value with zeros where it was not finite."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy
import torch

from safeloader.training.scan import is_float, look

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["mended"]


def mended(value: Any, above: frozenset[int] = frozenset()) -> Any:
    """The same value where all of it is finite; else a copy of what holds the bad tensors, with zeros in their place.

    Nothing is changed in place: the memory may be the dataset's own.

    Args:
        value: tensors and arrays in any nesting.
        above: what is left as it is, by id: tensors in which it is meant, and the containers that the value lies in
            (one that holds itself ends there).
    """
    if id(value) in above:
        return value
    if isinstance(value, torch.Tensor):
        if not is_float(value) or look("", value) is None:
            return value
        return torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
    if isinstance(value, numpy.ndarray):
        return numpy.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0) if value.dtype.kind in "fc" else value
    if isinstance(value, float):
        return value if math.isfinite(value) else type(value)(0.0)
    return _container(value, above | {id(value)})


def _container(value: Any, above: frozenset[int]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _kept(value, list(value), above, lambda items: type(value)(*items))
    if isinstance(value, (list, tuple)):
        return _kept(value, list(value), above, type(value))
    if isinstance(value, Mapping):
        return _kept(value, list(value.values()), above, lambda items: _with(value, items))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
    elif type(value).__module__ != "builtins" and isinstance(getattr(value, "__dict__", None), dict):
        names = list(vars(value))
    else:
        return value
    inside = [getattr(value, name, None) for name in names]
    return _kept(value, inside, above, lambda items: _filled(value, names, items))


def _kept(value: Any, items: list[Any], above: frozenset[int], make: Callable[[list[Any]], Any]) -> Any:
    new = [mended(item, above) for item in items]
    return value if all(a is b for a, b in zip(items, new, strict=True)) else make(new)


def _with(mapping: Mapping[Any, Any], items: list[Any]) -> Any:
    copied: Any = copy.copy(mapping)
    for key, item in zip(mapping, items, strict=True):
        copied[key] = item
    return copied


def _filled(value: Any, names: list[str], items: list[Any]) -> Any:
    copied = copy.copy(value)
    for name, item in zip(names, items, strict=True):
        object.__setattr__(copied, name, item)  # also where a dataclass is frozen
    return copied
