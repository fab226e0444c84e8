"""The random generators that a dataset may draw from: the three global ones, and those it keeps itself."""

from __future__ import annotations

import hashlib
import pickle
import random
import sys
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Streams", "digest", "seedings"]

_MOST_OBJECTS = 20_000
"""A dataset may hold millions of paths; generators lie near its surface."""

_LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), torch.Tensor)


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
        found.update((name, digest(_state(generator))) for name, generator in self._kept.items())
        return found

    def keep(self) -> Callable[[], None]:
        """Note all states; the result puts them back."""
        import numpy

        torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
        own = [(generator, _state(generator)) for generator in self._kept.values()]

        def put_back() -> None:
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
            for generator, state in own:
                _put(generator, state)

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


def _is_generator(value: Any) -> bool:
    if isinstance(value, (random.Random, torch.Generator)) and not isinstance(value, random.SystemRandom):
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.random.RandomState, numpy.random.Generator))


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    return generator.bit_generator.state if hasattr(generator, "bit_generator") else generator.get_state(legacy=False)


def _put(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _find(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Generators and the path to each, nearest first."""
    waiting: deque[tuple[str, Any]] = deque([("dataset", dataset)])
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_OBJECTS:
        path, value = waiting.popleft()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen.add(id(value))
        if _is_generator(value):
            yield path, value
        else:
            waiting.extend(_inside(path, value))


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{path}[{key!r}]", item) for key, item in list(value.items())[:_MOST_OBJECTS])
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"{path}[{n}]", item) for n, item in zip(range(_MOST_OBJECTS), value, strict=False))
    elif hasattr(value, "__closure__"):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            try:
                yield f"{path}.{name}", cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from _of_module(value)
    elif not isinstance(value, type):
        yield from ((f"{path}.{name}", item) for name, item in _attributes(value))
        yield from _of_module(type(value))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _of_module(thing: Any) -> Iterator[tuple[str, Any]]:
    """Generators among the globals of the module that defines a class or function (not of a library's)."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or module.__name__.partition(".")[0] in _LIBRARIES:
        return
    for name, value in list(vars(module).items()):
        if _is_generator(value):
            yield f"{module.__name__}.{name}", value


_LIBRARIES = frozenset({"torch", "numpy", "random", "builtins", "safeloader", *sys.stdlib_module_names})
