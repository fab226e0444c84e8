"""Random generator objects of every kind: what one is, its state in plain values, and a cheap way to see that it moved.

numpy's ``Generator`` keeps nothing beside its bit generator, which several may share: the bit generator is what counts.
A ``RandomState`` keeps half a pair of normals besides, so it counts itself.
"""

from __future__ import annotations

import pickle
import random
import sys
from typing import TYPE_CHECKING, Any

import torch

from safeloader.runtime.child.twister import numpy_gauss, numpy_words, python_words

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WatchedGenerator", "core_of", "is_generator", "kind_of", "make", "put_state", "state_of"]


def is_generator(value: Any) -> bool:
    """True for an object that random numbers can be drawn from, and whose state can be told."""
    if isinstance(value, (random.Random, torch.Generator)):
        return not isinstance(value, random.SystemRandom)
    numpy = sys.modules.get("numpy.random")
    kinds = () if numpy is None else (numpy.Generator, numpy.RandomState, numpy.BitGenerator)
    return isinstance(value, kinds)


def core_of(generator: Any) -> Any:
    """The object whose state is this generator's."""
    return generator.bit_generator if hasattr(generator, "bit_generator") else generator


def is_global(core: Any) -> bool:
    """True for one of the process's three own, which are kept apart."""
    if core is torch.default_generator or core is random._inst:
        return True
    numpy = sys.modules.get("numpy.random")
    return numpy is not None and (core is numpy.mtrand._rand or core is numpy.mtrand._rand._bit_generator)


def kind_of(core: Any) -> str:
    """Which kind of state it has."""
    if isinstance(core, random.Random):
        return "python"
    if isinstance(core, torch.Generator):
        return f"torch {core.device}"
    return "RandomState" if hasattr(core, "get_state") else type(core).__name__


def state_of(core: Any) -> dict[str, Any]:
    """Its state, in values that pickle and JSON can carry."""
    if isinstance(core, random.Random):
        return _python_state(core)
    if isinstance(core, torch.Generator):
        return {"state": core.get_state().numpy().tobytes()}
    if hasattr(core, "get_state"):
        found: dict[str, Any] = core.get_state(legacy=False)
    else:
        found = {**core.state, "spawned": getattr(core.seed_seq, "n_children_spawned", 0)}
    return found


def _python_state(core: random.Random) -> dict[str, Any]:
    state = core.getstate()
    try:
        import numpy

        version, words, gauss = state
        return {"version": version, "words": numpy.array(words, dtype="<u4"), "gauss": gauss}
    except (TypeError, ValueError, OverflowError):  # a subclass with a state of its own
        return {"own": state}


def put_state(core: Any, state: dict[str, Any]) -> None:
    """Set what `state_of` told.

    Raises:
        Exception: the generator is of another kind.
    """
    if isinstance(core, random.Random):
        core.setstate(state["own"] if "own" in state else (state["version"], _words(state), state["gauss"]))
    elif isinstance(core, torch.Generator):
        core.set_state(torch.frombuffer(bytearray(state["state"]), dtype=torch.uint8))
    elif hasattr(core, "set_state"):
        core.set_state(state)
    else:
        core.state = {name: value for name, value in state.items() if name != "spawned"}
        _put_spawned(core, state.get("spawned", 0))


def _put_spawned(core: Any, wanted: int) -> None:
    """Let a bit generator have so many children. Seeds that have more cannot forget them: they are made anew."""
    seeds = core.seed_seq
    more = wanted - getattr(seeds, "n_children_spawned", 0)
    if more > 0:
        seeds.spawn(more)
    elif more < 0:
        anew = type(seeds)(**{**seeds.state, "n_children_spawned": wanted})
        core.__setstate__((core.state, anew))


def _words(state: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(word) for word in state["words"])


def make(kind: str, wrapped: bool) -> Any:
    """A new generator of a kind, whose state is to be set; ``wrapped``: in numpy's ``Generator``."""
    if kind == "python":
        return random.Random()
    if kind.startswith("torch "):
        return torch.Generator(kind[6:])
    import numpy.random

    made = getattr(numpy.random, kind)()
    return numpy.random.Generator(made) if wrapped else made


class WatchedGenerator:
    """One generator, compared with itself at the last look."""

    def __init__(self, core: Any) -> None:
        self.core = core
        self._token = _token_of(core)
        self._last = self._token()

    def moved(self) -> bool:
        """True if it moved since the last look, or may have."""
        now = self._token()
        same, self._last = now == self._last and now is not None, now
        return not same

    def mark(self) -> None:
        """What it is now is what counts."""
        self._last = self._token()


def _token_of(core: Any) -> Callable[[], Any]:
    """What changes whenever the generator moves, as cheaply as its kind allows; None: it may have moved."""
    if isinstance(core, random.Random):
        twister: Any = python_words(core) if type(core) is random.Random else None
        return core.getstate if twister is None else lambda: (twister.raw, core.gauss_next)  # type: ignore[attr-defined]
    if isinstance(core, torch.Generator):
        return lambda: core.get_state().numpy().tobytes()
    if not hasattr(core, "get_state"):
        words = numpy_words(core) if type(core).__name__ == "MT19937" else None
        if words is not None:
            return lambda: words.raw
        return lambda: pickle.dumps((core.state, getattr(core.seed_seq, "n_children_spawned", 0)))
    return _legacy_token(core)


def _legacy_token(core: Any) -> Callable[[], Any]:
    """Of a ``RandomState``: half a pair of normals is kept outside the words."""
    words, half = numpy_words(core._bit_generator), numpy_gauss(core)
    if words is None or half is None:
        return lambda: pickle.dumps(core.get_state(legacy=False))
    return lambda: (words.raw, half.raw)
