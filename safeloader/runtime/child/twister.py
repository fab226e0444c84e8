"""The Mersenne twister, of which torch, Python and numpy have one each: where its words lie, and how they follow.

A state is 624 words and a position among them. A draw takes the next word; when all are taken, the words are replaced
at once, by others that depend on them alone: a *turn*. So the same state is known by older words, the number of turns
since, and the position. Memory is only read here, but for the twister that is this module's own.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

__all__ = [
    "gauss_in",
    "numpy_gauss",
    "numpy_words",
    "python_words",
    "torch_parts",
    "torch_state",
    "turned",
    "turns_between",
]

_WORDS = 624
_BYTES = 4 * _WORDS
_GAUSS = struct.Struct("@id")  # whether half a pair of normals is kept, and it
_TORCH_HEAD = 24  # the seed, how many words are left, whether it was seeded, the position
_TORCH_TAIL = _TORCH_HEAD + 8 * _WORDS  # a word takes eight bytes
_TORCH_STATE = _TORCH_TAIL + 40  # halves of pairs of normals


def python_words(instance: random.Random) -> Any:
    """Where one of Python's generators keeps its position and its words, or None if that cannot be told for sure."""
    try:
        header = object.__basicsize__
        words = (ctypes.c_char * (_BYTES + 4)).from_address(id(instance) + header)
        if sys.implementation.name != "cpython" or sys.getsizeof(instance) < header + _BYTES + 4:
            return None
        position, *state = (ctypes.c_uint32 * (_WORDS + 1)).from_address(id(instance) + header)
        public = instance.getstate()[1]
        return words if tuple(state) == public[:-1] and position == public[-1] else None
    except (AttributeError, TypeError, ValueError):
        return None


def numpy_words(bits: Any) -> Any:
    """Where a bit generator of numpy's keeps the words of its Mersenne twister and its position, or None for another
    kind."""
    try:
        address, state = bits.ctypes.state_address, bits.state
        words = (ctypes.c_uint32 * (_WORDS + 1)).from_address(address)
        if state["bit_generator"] != "MT19937" or words[_WORDS] != state["state"]["pos"]:
            return None
        if list(words[:_WORDS]) != state["state"]["key"].tolist():
            return None
        return (ctypes.c_char * (_BYTES + 4)).from_address(address)
    except (AttributeError, TypeError, ValueError, ImportError, KeyError):
        return None


def numpy_gauss(source: Any) -> Any:
    """Where a ``RandomState`` of numpy's keeps half a pair of normals, or None if that cannot be told for sure."""
    try:
        kind: Any = type(source)
        offset = _gauss_offset(kind)
        return None if offset is None else (ctypes.c_char * _GAUSS.size).from_address(id(source) + offset)
    except (AttributeError, TypeError, ValueError, ImportError, KeyError):
        return None


@functools.cache
def _gauss_offset(kind: Any) -> int | None:
    """Found by experiment: where the object changes as its half does."""
    trial, seen, size = kind(1), [], kind.__basicsize__
    for half in (0.123456789, -9.87654321):
        trial.set_state({**trial.get_state(legacy=False), "has_gauss": 1, "gauss": half})
        seen.append((ctypes.string_at(id(trial), size), _GAUSS.pack(1, half)))
    offsets = [at for at in range(0, size - _GAUSS.size + 1, 8) if _has(seen, at)]
    if sys.implementation.name != "cpython" or len(offsets) != 1:
        return None
    trial.standard_normal()
    still = ctypes.c_int.from_address(id(trial) + offsets[0]).value
    return offsets[0] if not still and not trial.get_state(legacy=False)["has_gauss"] else None


def _has(seen: list[tuple[bytes, bytes]], at: int) -> bool:
    return all(content[at : at + 4] == half[:4] and content[at + 8 : at + 16] == half[8:] for content, half in seen)


def gauss_in(place: bytes) -> tuple[int, float]:
    """Whether there is half a pair of normals, and it."""
    found: tuple[int, float] = _GAUSS.unpack(place)
    return found


# ---------------------------------------------------------------- torch, which tells its state in bytes


def torch_parts(state: bytes) -> tuple[bytes, bytes] | None:
    """The words, and all else; None where torch's state is of another form."""
    import numpy

    if len(state) != _TORCH_STATE:
        return None
    words = numpy.frombuffer(state, "=u8", _WORDS, _TORCH_HEAD)
    if (words >> 32).any():
        return None
    return words.astype("=u4").tobytes(), state[:_TORCH_HEAD] + state[_TORCH_TAIL:]


def torch_state(words: bytes, rest: bytes) -> bytes:
    """The state that has these parts."""
    import numpy

    wide = numpy.frombuffer(words, "=u4").astype("=u8").tobytes()
    return rest[:_TORCH_HEAD] + wide + rest[_TORCH_HEAD:]


# ---------------------------------------------------------------- turns


class _Scratch:
    """A twister of numpy's to compute with."""

    def __init__(self) -> None:
        import numpy.random

        self._bits: Any = numpy.random.MT19937(0)
        memory = numpy_words(self._bits)
        if memory is None:
            raise LookupError("numpy's twister lies in memory in another form")
        view = memoryview(memory).cast("B")
        self.words, self._position = view[:_BYTES], view[_BYTES:].cast("I")

    def turn(self) -> None:
        self._position[0] = _WORDS
        self._bits.random_raw(output=False)


@functools.cache
def _scratch() -> _Scratch | None:
    try:
        return _Scratch()
    except (ImportError, LookupError):
        return None


def turns_between(before: bytes, after: bytes, most: int) -> int | None:
    """After how many turns some words become others; None: not after so many."""
    if before == after:
        return 0
    scratch = _scratch()
    if scratch is None:
        return None
    words = scratch.words
    words[:] = before
    for count in range(1, most + 1):
        scratch.turn()
        if bytes(words) == after:
            return count
    return None


def turned(words: bytes, turns: int) -> bytes:
    """The words after so many turns."""
    if not turns:
        return words
    scratch = _Scratch()  # of this call's own: in the trainer, several threads may ask
    scratch.words[:] = words
    for _ in range(turns):
        scratch.turn()
    return bytes(scratch.words)
