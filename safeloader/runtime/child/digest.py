"""Eight bytes for a batch: equal for equal batches in any process, different for any real difference.

Plain values are marshalled; tensors and arrays count by type, shape and content. Long content is taken in rows of 4 KiB
whose words are multiplied by odd numbers that depend on their place in the row (10 GB/s; a cryptographic digest reads
1 GB/s): one changed word always changes its row's sum, and so do words that change places. The sums are digested.
"""

from __future__ import annotations

import hashlib
import marshal
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SIZE", "digest_of", "digest_of_error", "sums_of_bytes"]

SIZE = 8
_WORDS = 512  # in a row
_WEIGHTS = (numpy.arange(_WORDS, dtype=numpy.uint64) * 2 + 1) * numpy.uint64(0x9E3779B97F4A7C15)


def digest_of(batch: Any) -> bytes:
    """The batch's digest."""
    found = hashlib.blake2b(digest_size=SIZE)
    for piece in _pieces(batch):
        found.update(piece)
    return found.digest()


def digest_of_error(error: BaseException) -> bytes:
    """What an error in place of a batch counts as; its text may name addresses, so only its kind counts."""
    kind = f"raised {type(error).__module__}.{type(error).__qualname__}"
    return hashlib.blake2b(kind.encode(), digest_size=SIZE).digest()


def _pieces(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield from _of_tensor(value)
    elif isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype.str}{value.shape}".encode()
        yield from sums_of_bytes(numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8))
    elif isinstance(value, Mapping):
        yield f"{type(value).__name__}{len(value)}".encode()
        for key, item in value.items():
            yield from _pieces(key)
            yield from _pieces(item)
    elif isinstance(value, (list, tuple)):
        yield from _of_sequence(value)
    else:
        yield _of_plain(value)


def _of_sequence(value: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    yield f"{type(value).__name__}{len(value)}".encode()
    try:
        yield marshal.dumps(list(value), 0)
    except ValueError:  # it holds more than plain values
        for item in value:
            yield from _pieces(item)


def _of_tensor(value: torch.Tensor) -> Iterator[Any]:
    yield f"{value.dtype}{tuple(value.shape)}".encode()
    try:
        flat = value.detach().contiguous().reshape(-1)
        yield from sums_of_bytes(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    except Exception:  # sparse, quantised, of a device: rare, and slow
        yield _pickled(value)


def sums_of_bytes(content: Any) -> Iterator[Any]:
    """What stands for a flat array of bytes in a digest: sums of its rows, and what is left of the last one."""
    size = len(content)
    whole = size - size % (8 * _WORDS)
    if whole:
        yield (content[:whole].view(numpy.uint64).reshape(-1, _WORDS) @ _WEIGHTS).data
    yield content[whole:]


def _of_plain(value: Any) -> bytes:
    try:
        return marshal.dumps(value, 0)
    except ValueError:
        attributes = getattr(value, "__dict__", None)
    name = type(value).__qualname__.encode()
    return name + (digest_of(attributes) if attributes else _pickled(value))


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:
        return type(value).__qualname__.encode()
