"""Batches of tensors, numbers and text in lists, tuples and dicts: their structure is pickled once, not with each.

A *skeleton* is a pickle stream whose leaves are out of band, in order; pickle's ``buffers`` may be any objects. What is
not exactly of these types, or is there twice, goes another way: see ``codec``.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

__all__ = ["ALONE", "Skeletons"]

_PLAIN = frozenset({int, float, bool, type(None), str})
_TEXT = frozenset({str})
_DEEPEST = 16
_MOST_LEAVES = 256
_MOST_BYTES = 2048  # of leaves that are no tensors: they travel in the message, and are remembered with it
_KEPT = 64


class Skeletons:
    """Those of one process's batches."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], bytes] = {}

    def of(self, batch: Any) -> tuple[bytes, list[Any]] | None:
        """The skeleton of a batch, and its leaves: tensors, plain values, and lists of these. None: it has none."""
        walk = _Walk()
        if not walk.visit(batch, _DEEPEST):
            return None
        key = tuple(walk.key)
        stream = self._known.get(key)
        if stream is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = stream = _pickled(iter(key))
        return stream, walk.leaves


class _Walk:
    """What is found in a batch.

    Attributes:
        key: the structure, from the top down: None for a leaf, a type and a length or the names for a container.
        leaves: in the same order.
        nbytes: of leaves that are no tensors, about.
    """

    __slots__ = ("_seen", "key", "leaves", "nbytes")

    def __init__(self) -> None:
        self.key: list[Any] = []
        self.leaves: list[Any] = []
        self.nbytes = 0
        self._seen: set[int] = set()

    def visit(self, thing: Any, deepest: int) -> bool:
        """False if there is something that a skeleton cannot have."""
        kind = type(thing)
        if kind in _PLAIN:
            return self._leaf(thing, _size(thing) if kind is str else 9)
        if not deepest or id(thing) in self._seen:
            return False
        self._seen.add(id(thing))
        if kind is torch.Tensor:
            return self._leaf(thing, 0)
        if kind is dict:
            return self._dict(thing, deepest - 1)
        return (kind is list or kind is tuple) and self._sequence(kind, thing, deepest - 1)

    def _sequence(self, kind: type, thing: Any, deepest: int) -> bool:
        if len(thing) > _MOST_LEAVES:
            return False
        if kind is list and _PLAIN.issuperset(kinds := set(map(type, thing))):
            nbytes = _size("".join(thing)) if _TEXT.issuperset(kinds) else sum(map(_size, map(str, thing)))
            return self._leaf(thing, nbytes + 9 * len(thing))
        self.key.append((kind, len(thing)))
        return all(self.visit(part, deepest) for part in thing)

    def _leaf(self, thing: Any, nbytes: int) -> bool:
        self.key.append(None)
        self.leaves.append(thing)
        self.nbytes += nbytes
        return len(self.leaves) <= _MOST_LEAVES and self.nbytes <= _MOST_BYTES

    def _dict(self, thing: dict[Any, Any], deepest: int) -> bool:
        if not _TEXT.issuperset(map(type, thing)):
            return False
        self.key.append((dict, tuple(thing)))
        return all(self.visit(part, deepest) for part in thing.values())


def _size(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def _pickled(key: Any) -> bytes:
    file = io.BytesIO()
    pickle.Pickler(file, protocol=5, buffer_callback=lambda _: False).dump(_structure(key))
    return file.getvalue()


def _structure(key: Any) -> Any:
    """The containers, with something in place of each leaf that goes out of band, and is another each time."""
    part = next(key)
    if part is None:
        return pickle.PickleBuffer(bytearray())
    kind, inside = part
    if kind is dict:
        return {name: _structure(key) for name in inside}
    return kind([_structure(key) for _ in range(inside)])


ALONE = _pickled(iter((None,)))
"""The skeleton of a batch that is one leaf."""
