"""How some kinds of objects go into a carried stream, where pickle and cloudpickle know no good way."""

from __future__ import annotations

import array
import collections
import copyreg
import ctypes
import dataclasses
import functools
import gc
import io
import itertools
import mmap
import operator
import os
import socket
import struct
import sys
import types
import typing
import weakref
from multiprocessing import reduction, sharedctypes
from typing import Any

import cloudpickle

from safeloader.runtime.by_value import rebuild
from safeloader.runtime.by_value.importable import importable_as
from safeloader.runtime.counters import reduce_counter

if typing.TYPE_CHECKING:
    from collections.abc import Callable

Reduced = Any  # what a reducer returns: a tuple, the name of a global, or NotImplemented


class RefusedError(TypeError):
    """Something that could be serialised but would not work, or not well, in another process."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


def taught() -> dict[type, Callable[[Any], Reduced]]:
    """What others have registered with `copyreg` and with multiprocessing: it goes before all that is known here."""
    pickler: Any = reduction.ForkingPickler
    found = {**copyreg.dispatch_table, **pickler._extra_reducers}
    return {kind: how for kind, how in found.items() if _root(how) not in _HOMES}


def _root(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _is_taken(kind: type, how: Any) -> bool:
    return how.__module__ not in _NOT_TAKEN and kind not in _PLAIN


def reducers(*, inherit: bool) -> dict[type, Callable[[Any], Reduced]]:
    """Return how objects go by their exact type; later entries win.

    Made anew each time, as libraries teach `copyreg` and multiprocessing further types while a program runs.
    """
    if not inherit:
        return {**copyreg.dispatch_table, **cloudpickle.Pickler._dispatch_table, **_OWN_REDUCERS}
    shared = {}
    for library in ("multiprocessing", *FORKS_OF_MULTIPROCESSING):
        forking = getattr(sys.modules.get(f"{library}.reduction"), "ForkingPickler", None)
        for kind, how in getattr(forking, "_extra_reducers", {}).items():
            if how.__name__ == "reduce_ctype":
                shared[kind] = _shared_ctype
            elif library == _root(kind) or (library == "multiprocessing" and _is_taken(kind, how)):
                shared[kind] = how
    return {**copyreg.dispatch_table, **shared, **cloudpickle.Pickler._dispatch_table, **_OWN_REDUCERS, **taught()}


def _shared_ctype(found: Any) -> Reduced:
    # multiprocessing registers the type, but ordinary objects of it are not shared.
    if hasattr(found, "_wrapper"):
        return sharedctypes.reduce_ctype(found)  # type: ignore[attr-defined]
    return found.__reduce_ex__(5)


def reduce_memmap(array: Any) -> Reduced:
    """By file: by value it would be read whole, however big, and into the stream itself."""
    import numpy

    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    if array._mmap is None or not array.filename or array.mode == "c" or not contiguous:
        return numpy.ndarray.view, (numpy.asarray(array), numpy.memmap)
    # A view remembers the file and offset of the whole; where it lies in memory tells the rest.
    address = numpy.frombuffer(array._mmap, numpy.uint8).__array_interface__["data"][0]
    mapped_from = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    offset = mapped_from + array.__array_interface__["data"][0] - address
    filename = os.fspath(array.filename)
    if not os.path.isfile(filename) or os.path.getsize(filename) < offset + array.nbytes:
        return numpy.ndarray.view, (numpy.asarray(array), numpy.memmap)
    mode = "r" if array.mode == "r" else "r+"
    order = "C" if array.flags.c_contiguous else "F"
    return numpy.memmap, (filename, array.dtype, mode, offset, array.shape, order)


def reduce_stream(stream: Any) -> Reduced:
    """The standard streams are the reader's own, whatever a notebook put in their places."""
    for name in ("stdout", "stderr"):
        if stream is getattr(sys, name):
            return getattr, (sys, name)
    return NotImplemented


def _reduce_text_file(file: io.TextIOWrapper) -> Reduced:
    # cloudpickle would send the whole contents instead, and the reader would get no file.
    raise RefusedError(f"cannot pickle the open file {file.name!r}")


def _reduce_cached_property(found: functools.cached_property[Any]) -> Reduced:
    # Until Python 3.12 it holds a lock.
    return rebuild.cached_property, (found.func, found.attrname)


def _reduce_partial_method(found: functools.partialmethod[Any]) -> Reduced:
    # From Python 3.14 on it cannot be made without its function, which may refer to it.
    return functools.partialmethod, (len,), vars(found)


def _reduce_weak_dictionary(found: Any) -> Reduced:
    return rebuild.weak_dictionary, (type(found), list(found.items()))


def _reduce_weak_reference(found: Any) -> Reduced:
    return rebuild.weak_reference, (found(), found.__callback__)


def _reduce_weak_method(found: Any) -> Reduced:
    return rebuild.weak_method, (found(), found.__callback__)


def _reduce_proxy(proxy: Any) -> Reduced:
    try:
        target = proxy.__reduce_ex__.__self__  # the proxy hands the question on
    except ReferenceError:
        target = None
    return rebuild.weak_proxy, (target,)


def _reduce_memoryview(view: memoryview) -> Reduced:
    """As a view of the same part of the same object, which may be changed through either; else of a copy."""
    shape, kind = (view.shape, view.format)
    base: Any = view.obj  # memory of C has none
    if not view.c_contiguous or base is None or not view.nbytes:
        return rebuild.memory_view, (view.tobytes(), 0, view.nbytes, kind, shape, True)
    import numpy

    whole = memoryview(base)
    if not whole.c_contiguous:
        return rebuild.memory_view, (view.tobytes(), 0, view.nbytes, kind, shape, True)
    addresses = (numpy.frombuffer(m, numpy.uint8).__array_interface__["data"][0] for m in (view, whole))
    start = next(addresses) - next(addresses)
    return rebuild.memory_view, (base, start, view.nbytes, kind, shape, view.readonly)


def _reduce_typing(found: Any) -> Reduced:
    """By name, or by its parts: typing knows only names, which mean nothing in another ``__main__``."""
    if importable_as(found, found.__module__, found.__name__):
        return found.__name__
    kind: Any = type(found)
    if kind is typing.NewType:
        return kind, (found.__name__, found.__supertype__)
    if kind is typing.TypeVar:
        bound, variance = found.__bound__, (found.__covariant__, found.__contravariant__)
        return rebuild.type_variable, (found.__name__, found.__constraints__, bound, *variance)
    if kind.__name__ == "TypeAliasType":
        return kind, (found.__name__, found.__value__)
    return kind, (found.__name__,)


def _reduce_cell(cell: types.CellType) -> Reduced:
    try:
        contents = (cell.cell_contents,)
    except ValueError:  # a variable that is not assigned yet
        return rebuild.empty_cell, ()
    # As its state, not as an argument: a cell often holds the very function whose cell it is.
    return rebuild.empty_cell, (), contents, None, None, rebuild.fill_cell


def reduce_ctypes(cls: Any) -> Reduced | None:
    """A class that ctypes made of another, as it was made; None for one that is to go as any other."""
    if importable_as(cls, cls.__module__, cls.__qualname__):
        return None
    kind = type(cls).__name__
    if kind == "PyCArrayType" and cls.__name__ == f"{cls._type_.__name__}_Array_{cls._length_}":
        return operator.mul, (cls._type_, cls._length_)
    return (ctypes.POINTER, (cls._type_,)) if kind == "PyCPointerType" and cls.__name__.startswith("LP_") else None


def _reduce_struct(found: struct.Struct) -> Reduced:
    return struct.Struct, (found.format,)


def _reduce_dict_view(view: Any) -> Reduced:
    """As a view of the same dictionary, which may change."""
    whole = next(found for found in gc.get_referents(view) if isinstance(found, dict))
    return operator.methodcaller(type(view).__name__.rpartition("_")[2]), (whole,)


def _sentinel(name: str) -> Callable[[Any], str]:
    """Reduce a sentinel of `dataclasses` to its name: it is compared by identity."""
    return lambda found: name


FORKS_OF_MULTIPROCESSING = ("multiprocess", "billiard")

# Whose registrations are no other's.
_HOMES = frozenset({"copyreg", "re", "functools", "multiprocessing", "torch", "numpy", "cloudpickle"})
# torch would move every tensor into shared memory.
_NOT_TAKEN = frozenset({"torch.multiprocessing.reductions"})
# multiprocessing sends these too, but with loss, or (a connection over the network) to readers that cannot
# share it.
_PLAIN = frozenset({functools.partial, array.array, socket.socket})

_ordered: collections.OrderedDict[Any, Any] = collections.OrderedDict()
_OWN_REDUCERS: dict[type, Callable[[Any], Reduced]] = {
    types.CellType: _reduce_cell,
    io.TextIOWrapper: _reduce_text_file,
    functools.cached_property: _reduce_cached_property,
    functools.partialmethod: _reduce_partial_method,
    itertools.count: reduce_counter,
    weakref.WeakKeyDictionary: _reduce_weak_dictionary,
    weakref.WeakValueDictionary: _reduce_weak_dictionary,
    weakref.ref: _reduce_weak_reference,
    weakref.WeakMethod: _reduce_weak_method,
    weakref.ProxyType: _reduce_proxy,
    weakref.CallableProxyType: _reduce_proxy,
    memoryview: _reduce_memoryview,
    struct.Struct: _reduce_struct,
    **dict.fromkeys((type({}.keys()), type({}.values()), type({}.items())), _reduce_dict_view),
    **dict.fromkeys((type(_ordered.keys()), type(_ordered.values()), type(_ordered.items())), _reduce_dict_view),
    type(dataclasses.MISSING): _sentinel("MISSING"),
    type(dataclasses.KW_ONLY): _sentinel("KW_ONLY"),
}
# The later ones came with Python 3.11 and 3.12.
for _name in ("TypeVar", "NewType", "ParamSpec", "TypeVarTuple", "TypeAliasType"):
    if hasattr(typing, _name):
        _OWN_REDUCERS[getattr(typing, _name)] = _reduce_typing
