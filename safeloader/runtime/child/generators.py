"""The three random generators of a worker: captured after every task, so that its next process continues exactly.

Capturing must be cheap when nothing moved. torch's state is compared whole (5 kB). numpy's and Python's Mersenne
twisters are compared where they lie in memory: numpy says where (``BitGenerator.ctypes.state_address``); Python does
not, so the layout of its ``_random.Random`` is checked against ``random.getstate()`` once, and the slow public way is
taken if it does not match. Only the comparison reads memory; states are captured and restored by public calls.
"""

from __future__ import annotations

import ctypes
import pickle
import random
import sys
from typing import Any, NamedTuple

import torch

__all__ = ["Generators", "States", "numpy_words", "python_words"]

_WORDS = 624


class States(NamedTuple):
    """The states of torch's, Python's and numpy's generators; numpy's is None while numpy is not loaded.

    ``own`` are those of the generators that the worker's dataset holds (`own_generators`); None where it has none.
    """

    torch: bytes
    python: Any
    numpy: Any
    own: dict[str, Any] | None = None


class Generators:
    """Tells whether this process's generators moved, and captures and restores them."""

    def __init__(self) -> None:
        self._python_words = python_words(random._inst)
        self._numpy: Any = None
        self._numpy_source: Any = None  # numpy's global bit generator, which users may replace
        self._numpy_words: Any = None
        self._last_torch = b""
        self._last_python: Any = None
        self._last_gauss: Any = None
        self._last_numpy: Any = None
        self._numpy_gauss = False
        self.mark()

    def capture(self) -> States:
        """The states now."""
        return States(_torch_bytes(), random.getstate(), self._numpy_state())

    def restore(self, states: States) -> None:
        """Put the states back."""
        torch.set_rng_state(torch.frombuffer(bytearray(states.torch), dtype=torch.uint8))
        random.setstate(states.python)
        if states.numpy is not None:
            self._restore_numpy(states.numpy)
        self.mark()

    def _restore_numpy(self, state: Any) -> None:
        numpy, kind = self._load_numpy(), state["bit_generator"]
        if type(numpy.random.get_bit_generator()).__name__ != kind:
            numpy.random.set_bit_generator(getattr(numpy.random, kind)())
        numpy.random.set_state(state)

    def mark(self) -> None:
        """Remember the states as those that ``moved`` compares with."""
        self._last_torch = _torch_bytes()
        self._last_python = self._python_now()
        self._last_gauss = random.getstate()[2]
        self._last_numpy = self._numpy_now()
        self._numpy_gauss = self._numpy is not None and bool(self._numpy_state()["has_gauss"])

    def moved(self) -> States | None:
        """The states, if any generator moved since the last mark (then marked anew); else None."""
        if (
            _torch_bytes() == self._last_torch
            and self._python_now() == self._last_python
            and _gauss_next() == self._last_gauss
            and self._numpy_now() == self._last_numpy
            and not self._numpy_gauss  # half of a pair of normals is kept outside the twister
        ):
            return None
        self.mark()
        return self.capture()

    def _python_now(self) -> Any:
        return random.getstate() if self._python_words is None else self._python_words.raw

    def _numpy_now(self) -> Any:
        if self._numpy is None:
            if "numpy" not in sys.modules:
                return None
            self._load_numpy()
        source = self._numpy.random.get_bit_generator()
        if source is not self._numpy_source:
            self._numpy_source, self._numpy_words = source, numpy_words(source)
        return self._numpy_words.raw if self._numpy_words is not None else pickle.dumps(self._numpy_state())

    def _numpy_state(self) -> Any:
        return self._load_numpy().random.get_state(legacy=False) if "numpy" in sys.modules else None

    def _load_numpy(self) -> Any:
        if self._numpy is None:
            import numpy

            self._numpy = numpy
        return self._numpy


def _torch_bytes() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _gauss_next() -> Any:
    return random._inst.gauss_next  # type: ignore[attr-defined]


def python_words(instance: random.Random) -> Any:
    """Where one of Python's generators keeps its words, or None if that cannot be told for sure."""
    try:
        header = object.__basicsize__
        words = (ctypes.c_char * (4 * (_WORDS + 1))).from_address(id(instance) + header)
        if sys.implementation.name != "cpython" or sys.getsizeof(instance) < header + 4 * (_WORDS + 1):
            return None
        position, *state = (ctypes.c_uint32 * (_WORDS + 1)).from_address(id(instance) + header)
        public = instance.getstate()[1]
        return words if tuple(state) == public[:-1] and position == public[-1] else None
    except (AttributeError, TypeError, ValueError):
        return None


def numpy_words(bits: Any) -> Any:
    """Where a bit generator of numpy's keeps the words of its Mersenne twister, or None for another kind."""
    try:
        address, state = bits.ctypes.state_address, bits.state
        words = (ctypes.c_uint32 * (_WORDS + 1)).from_address(address)
        if state["bit_generator"] != "MT19937" or words[_WORDS] != state["state"]["pos"]:
            return None
        if list(words[:_WORDS]) != state["state"]["key"].tolist():
            return None
        return (ctypes.c_char * (4 * (_WORDS + 1))).from_address(address)
    except (AttributeError, TypeError, ValueError, ImportError, KeyError):
        return None
