"""The three random generators of a worker: captured after every task, so that its next process continues exactly.

Capturing must be cheap. torch tells its state in bytes (5 kB). numpy's and Python's Mersenne twisters are read where
they lie in memory: numpy says where (``BitGenerator.ctypes.state_address``); for the rest the layout is checked against
the public state once (`twister`), and the slow public way is taken if it does not match. What has moved is told by the
position, and by how often the words were replaced since they were told in full (`Advanced`). Only reading looks into
memory; states are restored by public calls.
"""

from __future__ import annotations

import pickle
import random
import sys
from typing import Any, NamedTuple

import torch

from safeloader.runtime.child.states import Advanced, Base, States, in_full
from safeloader.runtime.child.twister import (
    gauss_in,
    numpy_gauss,
    numpy_words,
    python_words,
    torch_parts,
    turns_between,
)

__all__ = ["Advanced", "Generators", "States"]

_MOST_TURNS = 16  # looked for after one task; then it is cheaper to tell the words
_LONGEST = 2048  # turns from a base; so long takes a millisecond to be put back
_WORDS = 4 * 624


class _Seen(NamedTuple):
    """What the generators are, as it is read: it differs whenever one of them does."""

    torch: bytes
    python: Any  # position and words, or the state where they cannot be read
    gauss: Any
    numpy: Any  # words and position, or the state where they cannot be read
    half: Any  # of a pair of normals; None where it cannot be read, and the state has to be asked


class Generators:
    """Tells whether this process's generators moved, and captures and restores them."""

    def __init__(self) -> None:
        self._python_words = python_words(random._inst) if type(random._inst) is random.Random else None
        self._numpy: Any = None
        self._numpy_source: Any = None  # numpy's global bit generator, which users may replace
        self._numpy_words: Any = None
        self._numpy_half: Any = None
        self._base: Base | None = None
        self._turns = [0, 0, 0]
        self._words: list[bytes] = []  # of the three, when they were looked at last
        self.mark()

    def capture(self) -> States:
        """The states now."""
        return States(_torch_bytes(), random.getstate(), self._numpy_state())

    def restore(self, told: States | Advanced) -> None:
        """Put the states back."""
        states = in_full(told)
        assert states is not None
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
        self._last = self._look()
        self._unsure = self._last.half is None and self._numpy is not None and bool(self._numpy_state()["has_gauss"])
        self._base = None

    def moved(self) -> States | Advanced | None:
        """The states, if any generator moved since the last mark (then marked anew); else None."""
        seen = self._look()
        if seen == self._last and not self._unsure:  # half of a pair of normals may be kept where nobody sees it
            return None
        return self._tell(seen)

    def now(self) -> States | Advanced:
        """The states, marked anew."""
        return self._tell(self._look())

    def _tell(self, seen: _Seen) -> States | Advanced:
        readable = self._python_words is not None and self._numpy_words is not None and seen.half is not None
        parts = torch_parts(seen.torch) if readable else None
        if parts is None:
            self.mark()
            return self.capture()
        words = [parts[0], seen.python[4:], seen.numpy[:_WORDS]]
        if self._base is None or not self._follow(words):
            self._base, self._turns = Base(*words), [0, 0, 0]
        self._last, self._words = seen, words
        turns = self._turns[0], self._turns[1], self._turns[2]
        python = int.from_bytes(seen.python[:4], sys.byteorder), seen.gauss
        numpy = int.from_bytes(seen.numpy[_WORDS:], sys.byteorder), *gauss_in(seen.half)
        return Advanced(self._base, turns, parts[1], python, numpy)

    def _follow(self, words: list[bytes]) -> bool:
        """Count the turns since the last look. False: some words do not follow from those, or too many turns on."""
        for at in range(3):
            turns = turns_between(self._words[at], words[at], _MOST_TURNS)
            if turns is None:
                return False
            self._turns[at] += turns
        return max(self._turns) <= _LONGEST

    def _look(self) -> _Seen:
        python: Any = random.getstate() if self._python_words is None else self._python_words.raw
        numpy = self._numpy_now()
        half = None if self._numpy_half is None or self._numpy_words is None else self._numpy_half.raw
        return _Seen(_torch_bytes(), python, random._inst.gauss_next, numpy, half)  # type: ignore[attr-defined]

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

            self._numpy, self._numpy_half = numpy, numpy_gauss(numpy.random.mtrand._rand)
        return self._numpy


def _torch_bytes() -> bytes:
    return torch.default_generator.get_state().numpy().tobytes()
