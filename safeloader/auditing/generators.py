"""The random generators that a dataset may draw from: the three global ones, and those it keeps itself."""

from __future__ import annotations

import hashlib
import pickle
import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from safeloader.runtime.child.generator_objects import (
    core_of,
    is_generator,
    is_global,
    put_state,
    state_of,
)
from safeloader.runtime.child.reach import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Streams", "digest", "seedings"]


class Streams:
    """All sources of random numbers within reach of a dataset, by name.

    Args:
        dataset: searched through attributes, containers, closures, and the globals of its classes' modules.
    """

    def __init__(self, dataset: Any) -> None:
        self._kept = dict(_find(dataset))

    def states(self) -> dict[str, bytes]:
        """A digest of the state of each source."""
        found = {"torch": digest(torch.get_rng_state().numpy().tobytes()), "python": digest(random.getstate())}
        if "numpy" in sys.modules:
            import numpy

            found["numpy"] = digest(numpy.random.get_state(legacy=False))
        found.update((name, digest(state_of(generator))) for name, generator in self._kept.items())
        return found

    def keep(self) -> Callable[[], None]:
        """Note all states; the result puts them back."""
        import numpy

        torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
        own = [(generator, state_of(generator)) for generator in self._kept.values()]

        def put_back() -> None:
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
            for generator, state in own:
                put_state(generator, state)

        return put_back


@contextmanager
def seedings() -> Iterator[list[str]]:
    """Within this context, calls that seed a global generator are noted (and done)."""
    calls: list[str] = []
    homes: list[tuple[Any, str, str]] = [(torch, "manual_seed", "torch"), (random, "seed", "python")]
    if "numpy" in sys.modules:
        homes.append((sys.modules["numpy"].random, "seed", "numpy"))

    def noting(seed: Any, name: str) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append(f"{name} with {', '.join(map(repr, [*args, *kwargs.values()]))}")
            return seed(*args, **kwargs)

        return noted

    before = [(home, attribute, getattr(home, attribute)) for home, attribute, _ in homes]
    for home, attribute, name in homes:
        setattr(home, attribute, noting(getattr(home, attribute), name))
    try:
        yield calls
    finally:
        for home, attribute, seed in before:
            setattr(home, attribute, seed)


def digest(value: Any) -> bytes:
    """A short fingerprint of what a value holds; of its text where that cannot be told."""
    found = hashlib.blake2b(digest_size=12)
    for piece in _pieces(value):
        found.update(piece)
    return found.digest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu":
        yield f"{value.dtype}{tuple(value.shape)}".encode()  # pickled, a view would bring all that it looks at
        yield bytes(value.detach().contiguous().flatten().view(torch.uint8).numpy()) if value.numel() else b""
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _pieces(key)
            yield from _pieces(item)
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__}{len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    else:
        try:
            yield pickle.dumps(value, protocol=5)
        except Exception:
            yield repr(value).encode()


def _find(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Generators and the path to each, nearest first."""
    known: set[int] = set()
    for path, value, _ in walk([("dataset", dataset)]):
        if is_generator(value):
            core = core_of(value)
            if id(core) not in known and not is_global(core):
                known.update((id(core), id(getattr(core, "_bit_generator", core))))
                yield path.removeprefix("global "), core
