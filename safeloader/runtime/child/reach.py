"""What is within reach of a dataset: a walk over attributes, containers, closures, and the globals that its code names.

Nearest first, since generators lie near a dataset's surface while its data lies deep; ended after so many objects.
"""

from __future__ import annotations

import functools
import gc
import logging
import sys
import types
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MOST_OBJECTS", "Reached", "names_of_code", "walk"]

MOST_OBJECTS = 2000
_DEEPEST = 3  # packages in packages
_MOST_ITEMS = 256  # of one container: what holds more holds data

_LEAVES = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    bool,
    type(None),
    torch.Tensor,
    torch.dtype,
    types.ModuleType,
    logging.Logger,
    logging.Handler,
)
_LIBRARIES = frozenset({"torch", "numpy", "safeloader", "__future__", *sys.stdlib_module_names} - {"__main__"})
_FUNCTIONS = (types.FunctionType, staticmethod, classmethod, property)

Step = tuple[str, Any, bool]  # how the path goes on, what is there, whether all copies of the dataset share it


class Reached(NamedTuple):
    """One object that the walk came to. ``shared``: it belongs to a class or a module, and so to the whole process."""

    path: str
    value: Any
    shared: bool


def walk(
    roots: Iterable[tuple[str, Any]], without: Iterable[Any] = (), shared: bool = True, most: int = MOST_OBJECTS
) -> Iterator[Reached]:
    """Each object once, nearest first, by its first path; leaves (numbers, text, tensors, arrays) are not told.

    What belongs to classes and modules comes after all else, and only where it is wanted (``shared``).
    """
    near = deque(Reached(path, value, False) for path, value in roots)
    far: deque[Reached] = deque()
    known = {id(value) for value in without}
    kept: list[Any] = []  # so that no id is used again
    for waiting, count in ((near, most), (far, most if shared else 0)):
        while waiting and count:
            seen = waiting.popleft()
            if id(seen.value) in known or is_leaf(seen.value):
                continue
            known.add(id(seen.value))
            kept.append(seen.value)
            count -= 1
            yield seen
            for step, value, is_shared in steps_from(seen.value):
                there = Reached(
                    step if step.startswith("global ") else seen.path + step, value, seen.shared or is_shared
                )
                (far if there.shared else near).append(there)


def is_leaf(value: Any) -> bool:
    """True for what holds no other object, as far as this walk is concerned."""
    return isinstance(value, _LEAVES) or (type(value).__module__ == "numpy" and type(value).__name__ == "ndarray")


def referents(value: Any) -> list[Any]:
    """What an object that is written in C refers to.

    Without lists and tuples that are not filled, at whose holes Python crashes (`itertools.zip_longest` has such a
    tuple once an iterator has ended, a parser of XML such a list): Python's own look at them passes holes by.
    """
    return [item for item in gc.get_referents(value) if not _has_holes(item)]


def _has_holes(value: Any) -> bool:
    return type(value) in (list, tuple) and len(gc.get_referents(value)) < len(value)


def steps_from(value: Any) -> list[Step]:
    """What an object leads to; nothing where looking at it fails."""
    try:
        return list(_steps(value))
    except Exception:  # attributes that run the user's code
        return []


def _steps(value: Any) -> Iterator[Step]:
    if isinstance(value, dict):
        if len(value) <= _MOST_ITEMS:
            yield from ((f"[{key!r}]", item, False) for key, item in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        if len(value) <= _MOST_ITEMS:
            yield from ((f"[{n}]", item, False) for n, item in enumerate(list(value)))
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield from ((".__self__", value.__self__, False), (".__func__", value.__func__, False))
    elif isinstance(value, functools.partial):
        parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
        yield from ((f".{name}", part, False) for name, part in parts.items())
    elif isinstance(value, type):
        yield from _of_class(value)
    else:
        yield from _of_instance(value)


def _of_instance(value: Any) -> Iterator[Step]:
    attributes = dict(attributes_of(value))
    yield from ((f".{name}", item, False) for name, item in attributes.items())
    if not attributes and type(value).__module__ not in ("torch", "numpy"):  # written in C, or without attributes
        inside = [item for item in referents(value) if not isinstance(item, type)]
        yield from ((f"<{n}>", item, False) for n, item in enumerate(inside[:_MOST_ITEMS]))
    yield from ((f".{cls.__name__}", cls, True) for cls in type(value).__mro__ if not _is_library(cls))


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of an object's own attributes."""
    yield from list(getattr(value, "__dict__", {}).items())
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _of_function(function: types.FunctionType) -> Iterator[Step]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".{name}", cell.cell_contents, False
        except ValueError:  # not filled yet
            continue
    yield from ((f".__defaults__[{n}]", value, True) for n, value in enumerate(function.__defaults__ or ()))
    yield from ((f".{name}", value, False) for name, value in vars(function).items())
    if _is_library(function):
        return
    yield from _of_namespace(function.__module__, function.__globals__, [*names_of_code(code)], _DEEPEST)


def _of_namespace(module: str, namespace: dict[str, Any], names: list[str], depth: int) -> Iterator[Step]:
    """What names lead to in a module, and in modules that are among it: ``settings.rng``."""
    for name in names:
        if name not in namespace:
            continue
        value = namespace[name]
        yield f"global {module}.{name}", value, True
        if isinstance(value, types.ModuleType) and depth and value.__name__.partition(".")[0] not in _LIBRARIES:
            yield from _of_namespace(value.__name__, vars(value), names, depth - 1)


def names_of_code(code: types.CodeType) -> Iterator[str]:
    """The globals that a function names, those of functions inside it included."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from names_of_code(inner)


def _of_class(cls: type) -> Iterator[Step]:
    if _is_library(cls):
        return
    for name, value in list(vars(cls).items()):
        if name in ("__dict__", "__weakref__", "__doc__"):
            continue
        inner = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
        if not isinstance(value, _FUNCTIONS) or isinstance(inner, types.FunctionType):
            yield f"global {cls.__module__}.{cls.__qualname__}.{name}", inner, True


def _is_library(thing: Any) -> bool:
    module = getattr(thing, "__module__", None) or ""
    return module.partition(".")[0] in _LIBRARIES
