"""Take an object apart as pickle would, with a name in words for each part."""

from __future__ import annotations

import copyreg
import functools
import types
from typing import TYPE_CHECKING, Any

from safeloader.runtime.by_value import rebuild

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from safeloader.runtime.by_value.pickler import CarryPickler

# How to get from the whole to the part, to be put behind the path to the whole; and the part.
Part = tuple[str, object]

_WRAPPERS = (staticmethod, classmethod, property, functools.cached_property)


def parts_of(pickler: CarryPickler, whole: Any) -> Iterator[Part]:
    """Yield what pickle would serialise in the course of serialising `whole`.

    Raises:
        Exception: whatever ``__reduce__``, ``__getstate__`` and the like raise.
    """
    if isinstance(whole, (list, tuple)) and type(whole) in (list, tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(whole))
    elif type(whole) is dict:
        yield from _items(whole)
    elif type(whole) in (set, frozenset):
        yield from ((" → an element", item) for item in whole)
    elif isinstance(whole, types.CellType):
        yield "", whole.cell_contents
    elif isinstance(whole, types.MethodType):
        yield from ((".__func__", whole.__func__), (".__self__", whole.__self__))
    elif isinstance(whole, functools.partial):
        yield from ((".func", whole.func), (".args", whole.args), (".keywords", whole.keywords))
        yield from _attributes(vars(whole))
    elif isinstance(whole, _WRAPPERS):
        yield from _wrapped(whole)
    else:
        yield from _reduced(pickler, whole)


def _wrapped(wrapper: Any) -> Iterator[Part]:
    for name in ("__func__", "func", "fget", "fset", "fdel"):
        function = getattr(wrapper, name, None)
        if function is not None:
            yield "", function


def _reduced(pickler: CarryPickler, whole: Any) -> Iterator[Part]:
    reduced = pickler.reduce(whole)
    if not isinstance(reduced, tuple):
        return
    if isinstance(whole, types.FunctionType):
        yield from _of_function(whole, reduced[2])
    elif isinstance(whole, type):
        yield from _of_class(whole, reduced)
    elif isinstance(whole, types.ModuleType):
        yield from _attributes(reduced[2] if len(reduced) > 2 else {})
    else:
        yield from _of_instance(*reduced)


def _of_function(function: types.FunctionType, state: tuple[Any, Any]) -> Iterator[Part]:
    attributes, slots = state
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield f" → captured variable {name!r}", cell
    for name, value in slots["__globals__"].items():
        yield f" → global variable {name!r}", value
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    for name, value in zip(positional[len(positional) - len(defaults) :], defaults, strict=True):
        yield f" → default of {name!r}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f" → default of {name!r}", value
    for name, value in (slots.get("__annotations__") or {}).items():
        yield f" → annotation of {name!r}", value
    yield from _attributes(attributes)


def _of_class(cls: type, reduced: tuple[Any, ...]) -> Iterator[Part]:
    if len(reduced) != 6:
        return
    make, args, state = reduced[:3]
    if make is rebuild.make_class:
        args, state = args[2], state[1]
    yield " → its metaclass", type(cls)
    for base in cls.__bases__:
        yield f" → base class {base.__name__}", base
    yield from _attributes(state[0])
    yield " → its definition", args


def _of_instance(
    make: Any, args: Any, state: Any = None, items: Any = None, pairs: Any = None, setter: Any = None
) -> Iterator[Part]:
    # `copyreg`'s functions make an instance of their first argument, a class: its methods are named like
    # attributes.
    plain = getattr(make, "__module__", "") == copyreg.__name__
    yield "" if plain else " → what rebuilds it", make
    for index, arg in enumerate(args):
        yield ("" if plain and index == 0 else f" → argument {index} of what rebuilds it"), arg
    slots: Any = None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state, slots = state
    for part in (state, slots):
        if isinstance(part, dict):
            yield from _attributes(part)
        elif part is not None:
            yield " → its state", part
    yield from ((f"[{index}]", item) for index, item in enumerate(items or ()))
    yield from _items(dict(pairs or ()))
    if setter is not None:
        yield " → what sets its state", setter


def _attributes(found: Mapping[Any, object]) -> Iterator[Part]:
    for name, value in found.items():
        yield (f".{name}" if isinstance(name, str) else f"[{name!r}]"), value


def _items(found: Mapping[Any, object]) -> Iterator[Part]:
    for key, value in found.items():
        shown = repr(key)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        yield f" → key {shown}", key
        yield f"[{shown}]", value
