"""A digest over a state, in a form that does not depend on how the state was kept.

JSON makes lists of tuples and text of numbers that are keys, other ways of keeping a state leave them; the order of
keys does not matter. What is no plain value, tensor or array (an object out of a dataset's own state) counts by its
class alone.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import numpy
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["seal_of"]

_DEEPEST = 200  # an object may hold itself


def seal_of(told: dict[str, Any], keys: Iterable[str]) -> str:
    """The digest of these keys of a state."""
    digest = hashlib.sha256()
    _feed(digest, {key: told[key] for key in keys}, 0)
    return digest.hexdigest()


def _feed(digest: Any, value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        _write(digest, "map", str(len(value)))
        for key, item in sorted(((_key(key), item) for key, item in value.items()), key=lambda pair: pair[0]):
            _write(digest, "key", key)
            _feed(digest, item, depth + 1)
    elif isinstance(value, (list, tuple)):
        _write(digest, "list", str(len(value)))
        for item in value:
            _feed(digest, item, depth + 1)
    elif isinstance(value, AbstractSet):
        _write(digest, "set", *sorted(_alone(item) for item in value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _write(digest, "object", type(value).__qualname__)
        _feed(digest, {item.name: getattr(value, item.name, None) for item in dataclasses.fields(value)}, depth + 1)
    else:
        _feed_leaf(digest, value)


def _feed_leaf(digest: Any, value: Any) -> None:
    if isinstance(value, enum.Enum):
        _write(digest, "enum", type(value).__qualname__, value.name)
    elif isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
        _feed_leaf(digest, value.item())
    elif value is None or isinstance(value, (bool, int, float, str)):
        _write(digest, *_plain(value))
    elif isinstance(value, (bytes, bytearray)):
        _write(digest, "bytes", bytes(value))
    elif isinstance(value, torch.Tensor):
        _feed_tensor(digest, value)
    elif isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
        _write(digest, "array", value.dtype.str, str(value.shape), value.tobytes())
    else:
        _write(digest, "other", type(value).__qualname__)


def _plain(value: Any) -> tuple[str, str]:
    if isinstance(value, str):
        return "text", value
    if isinstance(value, bool) or value is None:
        return "word", str(value)
    return ("float", float.__repr__(value)) if isinstance(value, float) else ("int", int.__repr__(value))


def _feed_tensor(digest: Any, tensor: torch.Tensor) -> None:
    _write(digest, "tensor", str(tensor.dtype), str(tuple(tensor.shape)))
    try:
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized: by its shape alone
        return
    _write(digest, data)


def _key(key: Any) -> str:
    """As JSON writes it."""
    if isinstance(key, str):
        return key
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return _plain(key)[1] if isinstance(key, (int, float)) else _alone(key)


def _alone(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, value, 0)
    return digest.hexdigest()


def _write(digest: Any, *parts: str | bytes) -> None:
    """Each with its length, so that no two values are written alike."""
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
