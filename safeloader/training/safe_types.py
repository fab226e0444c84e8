"""States as ``torch.load(weights_only=True)`` reads them: tensors and plain values, nothing that runs code.

numpy's arrays and numbers are put into tensors and taken out again; anything else that could not be read back is an
error when the checkpoint is written, not in the night in which it is needed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy
import torch

from safeloader.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["to_plain", "to_values"]

_AS_THEY_ARE = (
    type(None), bool, float, str, bytes, bytearray, complex, torch.Size, torch.device, torch.dtype
)  # fmt: skip
_TAG = "__safeloader__"
_LARGEST_INT = 255 * 8 - 1  # bits; what the restricted unpickler reads


def to_plain(value: Any, where: str = "state") -> Any:
    """A copy of the containers, with everything in them plain; tensors are the same tensors.

    Args:
        value: a state dict, or a part of one.
        where: what to call it in an error.

    Raises:
        CheckpointError: something in it could not be loaded with ``weights_only``; it is named.
    """
    kind = type(value)
    if kind in _AS_THEY_ARE or (kind is int and value.bit_length() < _LARGEST_INT):
        return value
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        return _tensor(value, where)
    convert = _CONVERSIONS.get(kind)
    if convert is not None:
        return convert(value, where)
    if isinstance(value, numpy.generic) and not isinstance(value, numpy.void):
        return to_plain(value.item(), where)
    raise _not_plain(value, where)


def _tensor(value: torch.Tensor, where: str) -> torch.Tensor:
    if value.is_meta:
        raise CheckpointError(
            f"{where} is on the meta device, which keeps no values: there is nothing to save",
            hint='model.to_empty(device="cpu") gives it memory; then initialize it, or load its state',
        )
    return value.detach()


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    return {to_plain(key, f"{where}'s key"): to_plain(item, f"{where}[{key!r}]") for key, item in value.items()}


def _ordered(value: Any, where: str) -> Any:
    return _with_versions(OrderedDict(_mapping(value, where)), value)


def _with_versions(copied: OrderedDict[Any, Any], of: Any) -> OrderedDict[Any, Any]:
    """A module's state dict carries the versions of its modules as an attribute."""
    versions = getattr(of, "_metadata", None)
    if versions is not None:
        copied._metadata = versions  # type: ignore[attr-defined]
    return copied


def _counter(value: Any, where: str) -> Any:
    return Counter(_mapping(value, where))


def _list(value: Any, where: str) -> list[Any]:
    return [to_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]


def _tuple(value: Any, where: str) -> tuple[Any, ...]:
    return tuple(_list(value, where))


def _set(value: Any, where: str) -> set[Any]:
    return set(_list(value, where))


def _tagged(name: str) -> Callable[[Any, str], dict[str, Any]]:
    return lambda value, where: {_TAG: name, "items": _list(value, where)}


def _array(value: Any, where: str) -> dict[str, Any]:
    if value.dtype.hasobject or value.dtype.names is not None:
        raise _not_plain(value, where)
    flat = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8).copy()
    return {_TAG: "array", "dtype": value.dtype.str, "shape": tuple(value.shape), "data": torch.from_numpy(flat)}


_CONVERSIONS: dict[type, Callable[[Any, str], Any]] = {
    dict: _mapping,
    defaultdict: _mapping,
    OrderedDict: _ordered,
    Counter: _counter,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _tagged("frozenset"),
    deque: _tagged("deque"),
    numpy.ndarray: _array,
}


def _not_plain(value: Any, where: str) -> CheckpointError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    hint = "keep it out of the state, or put in the numbers, text and tensors that it is made of"
    if isinstance(value, torch.Tensor):
        hint = (
            "for sharded models give the whole state, in extra={...}: torch.distributed.checkpoint.state_dict."
            "get_model_state_dict(..., options=StateDictOptions(full_state_dict=True))"
        )
    elif isinstance(value, PurePath):
        hint = "put in str(path)"
    elif callable(value):
        hint = "functions are not saved: give it again when the run is resumed"
    return CheckpointError(f"{where} is a {kind}, which weights_only loading refuses", hint=hint)


def to_values(plain: Any) -> Any:
    """The inverse of ``to_plain``, as far as it made anything else of something."""
    kind = type(plain)
    if kind is dict:
        tag = plain.get(_TAG)
        if tag is not None:
            return _FROM_TAG[tag](plain)
        return {key: to_values(item) for key, item in plain.items()}
    if kind is OrderedDict:
        return _with_versions(OrderedDict((key, to_values(item)) for key, item in plain.items()), plain)
    if kind in (list, tuple, set):
        return kind(to_values(item) for item in plain)
    return plain


def _to_array(plain: dict[str, Any]) -> Any:
    return plain["data"].numpy().copy().view(numpy.dtype(plain["dtype"])).reshape(plain["shape"])


_FROM_TAG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "array": _to_array,
    "frozenset": lambda plain: frozenset(to_values(item) for item in plain["items"]),
    "deque": lambda plain: deque(to_values(item) for item in plain["items"]),
}
