"""What objects without attributes hold, as something that can be compared: numbers, text, arrays, files, generators.

========================  =======================================================================================
plain values, text        themselves
arrays, tensors, buffers  every byte, up to a number of bytes in all; beyond it the ends, and blocks spread evenly
random generators         their state
files                     where they stand
iterators                 nothing tells where one stands without moving it, as a rule: it counts as moved, always
other objects of C        `HIDDEN`: nothing tells
========================  =======================================================================================
"""

from __future__ import annotations

import collections
import decimal
import functools
import io
import itertools
import mmap
import operator
import pathlib
import random
import re
import types
import typing
import weakref
from typing import TYPE_CHECKING, Any

import numpy
import torch

from safeloader import torch_private
from safeloader.runtime.child.digest import sums_of_bytes
from safeloader.runtime.user_code import module_of, package_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HIDDEN", "MOVES", "Budget", "added", "content_of", "is_pythons", "slot"]

HIDDEN = object()
"""In place of a content: it may change, and nobody can see it."""
MOVES = object()
"""In place of a content: it changes whenever it is used."""


class Parts(tuple[Any, ...]):
    """In place of a content: look at these."""


_BYTES = 8 << 20  # of arrays, for one digest: 1 to 2 ms
_BLOCK = 4096
_BLOCKS = 64  # of what is too large
_ENDS = 2  # ... where a block may have to come from a disk, or something else tells too
_POINTER = 8  # bytes
_OF_PYTHON = 1 << 9  # the flag of a class that a class statement has made
_CHUNKS = 32  # of a column of Arrow's
_FILES = (
    io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO, io.TextIOWrapper, io.BytesIO, io.StringIO,
)  # fmt: skip
_DRAWS = frozenset({"random", "rand", "randn", "randint", "choice", "shuffle", "permutation", "normal", "uniform"})
_CONSTANT: tuple[type, ...] = (
    re.Pattern, range, slice, property, operator.itemgetter, operator.attrgetter, operator.methodcaller,
    types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType, types.GetSetDescriptorType,
    types.MemberDescriptorType, types.ClassMethodDescriptorType, types.GenericAlias, types.UnionType, typing.TypeVar,
    torch.dtype, torch.device, torch.Size,
    numpy.generic, numpy.dtype, numpy.ufunc,
)  # fmt: skip
_CONSTANT_PACKAGES = frozenset(
    {"datetime", "decimal", "fractions", "uuid", "zoneinfo", "_thread", "_weakref", "weakref", "_abc", "numpy", "torch"}
    | {"pandas", "pyarrow", "PIL", "h5py", "torchvision", "_ssl", "_struct", "_json"}
)
"""Whose objects written in C are not changed by being read, or hold no more than what Python objects of theirs show."""


class Budget:
    """How many bytes of arrays may still be read."""

    def __init__(self) -> None:
        self.left = _BYTES
        self.cut = False  # something was read in part

    def of(self, content: numpy.ndarray[Any, Any], blocks: int = _BLOCKS) -> Any:
        """A digest of bytes: of all, or where they are too many of the ends and of blocks between them."""
        if content.nbytes <= self.left:
            self.left -= content.nbytes
            return _sums(content)
        self.cut = True
        starts = numpy.linspace(0, content.nbytes - min(_BLOCK, content.nbytes), blocks).astype(int)
        return tuple(_sums(content[start : start + _BLOCK]) for start in starts)


def _sums(content: numpy.ndarray[Any, Any]) -> int:
    return hash(b"".join(sums_of_bytes(content)))


def added(thing: Any) -> list[Any]:
    """The attributes that Python's classes give an object besides its content: a counter on a ``float``, a mask."""
    if not type(thing).__flags__ & _OF_PYTHON:
        return []
    attributes = getattr(thing, "__dict__", None)
    found = [attributes] if attributes else []
    for kind in type(thing).__mro__:
        if "__slots__" in vars(kind) and not issubclass(pathlib.PurePath, kind):
            members = [value for value in vars(kind).values() if isinstance(value, types.MemberDescriptorType)]
            found += [value for member in members if (value := slot(member, thing)) is not None]
    return found


def slot(member: Any, thing: Any) -> Any:
    """A slot's value; None for one that is not set."""
    try:
        return member.__get__(thing)
    except AttributeError:
        return None


def content_of(thing: Any, budget: Budget) -> Any:
    """What an object is, to be compared by hash; None if its attributes or elements tell, `HIDDEN` or `MOVES`."""
    if type(thing) in _WALKED_MOST:
        return None
    for look in (_of_python, _of_numpy, _of_torch, _of_others):
        if (found := look(thing, budget)) is not None:
            return found
    return None


def _of_python(thing: Any, budget: Budget) -> Any:
    kind = type(thing)
    if thing is HIDDEN or thing is MOVES:
        return thing
    if isinstance(thing, random.Random):
        return hash(thing.getstate())
    if isinstance(thing, pathlib.PurePath):
        return str(thing)  # it keeps its parts and its hash once somebody asks
    if isinstance(thing, io.IOBase):
        return _of_file(thing, budget)
    if kind in (itertools.count, itertools.repeat) or isinstance(thing, _CONSTANT):
        return repr(thing)
    if isinstance(thing, (int, float, complex, str, bytes)):
        return hash(thing)
    return repr(thing) if isinstance(thing, decimal.Context) else None


def _of_file(thing: Any, budget: Budget) -> Any:
    """Where it stands, and what it holds if it is in memory; files of classes of Python's have attributes."""
    kind = type(thing)
    if kind not in _FILES:
        return None
    if thing.closed:
        return "closed"
    try:
        place = thing.tell()
    except OSError:  # a pipe; a text of which lines are read by iteration
        return MOVES
    if kind is io.BytesIO:
        with thing.getbuffer() as view:
            return place, budget.of(numpy.frombuffer(view, numpy.uint8)) if view.nbytes else b""
    return (place, hash(thing.getvalue())) if kind is io.StringIO else place


def _of_numpy(thing: Any, budget: Budget) -> Any:
    if isinstance(thing, numpy.ndarray):
        if thing.dtype.hasobject:
            return None
        told: tuple[Any, ...] = (thing.shape, str(thing.dtype))
        return (*told, _of_array(thing, budget)) if _may_be_written(thing) else told
    if isinstance(thing, numpy.random.RandomState):
        state: Any = thing.get_state()
        return state[0], state[1].tobytes(), *state[2:]
    if isinstance(thing, numpy.random.Generator):
        thing = thing.bit_generator
    if isinstance(thing, numpy.random.BitGenerator):
        return repr(thing.state), getattr(thing.seed_seq, "n_children_spawned", 0)
    return repr(thing.state) if isinstance(thing, numpy.random.SeedSequence) else None


def _may_be_written(array: numpy.ndarray[Any, Any]) -> bool:
    """True unless it shows memory that nobody writes to: an array that is read-only may be so for its holder alone."""
    held: Any = array
    while isinstance(held, (numpy.ndarray, memoryview)):
        if isinstance(held, numpy.ndarray) and (held.flags.writeable or held.base is None):
            return True
        held = held.obj if isinstance(held, memoryview) else held.base
    return not isinstance(held, (bytes, mmap.mmap))


def _of_array(thing: numpy.ndarray[Any, Any], budget: Budget) -> Any:
    blocks = _ENDS if isinstance(thing, numpy.memmap) else _BLOCKS
    thing = numpy.asarray(thing)
    if not thing.flags.c_contiguous:
        if thing.flags.f_contiguous:
            thing = thing.T
        elif thing.nbytes > budget.left:
            thing = numpy.ascontiguousarray(thing[:: max(len(thing) // _BLOCKS, 1)])
        else:
            thing = numpy.ascontiguousarray(thing)
    return budget.of(thing.reshape(-1).view(numpy.uint8), blocks) if thing.size else b""


def _of_torch(thing: Any, budget: Budget) -> Any:
    if isinstance(thing, torch.Tensor):
        return _of_tensor(thing, budget)
    if isinstance(thing, torch.UntypedStorage) and thing.device.type == "cpu":
        return _of_tensor(torch.empty(0, dtype=torch.uint8).set_(thing), budget)
    if torch_private.is_compiled_module(thing):
        return HIDDEN
    return thing.get_state().numpy().tobytes() if isinstance(thing, torch.Generator) else None


def _of_tensor(thing: torch.Tensor, budget: Budget) -> Any:
    plain = torch_private.plain_tensor(thing)
    told = str(plain.dtype), thing._version, thing.requires_grad
    if plain.device.type == "cpu":
        told += tuple(_of_memory(part, budget) for part in torch_private.parts_of(plain))
    gradient = thing.grad if thing.is_leaf else None
    return told if gradient is None else Parts((told, gradient, *added(thing)))


def _of_memory(plain: torch.Tensor, budget: Budget) -> Any:
    told = tuple(plain.shape), plain.stride()
    if not plain.is_contiguous() and plain.nbytes > budget.left:
        return told
    flat = plain.contiguous().reshape(-1)
    return (*told, budget.of(flat.view(torch.uint8).numpy(), _ENDS) if flat.numel() else b"")


def _of_others(thing: Any, budget: Budget) -> Any:
    """What is left: buffers of any kind, iterators, compiled functions, and what tells nothing."""
    kind = type(thing)
    package = package_of(kind)
    if package in _BY_PACKAGE:
        return _BY_PACKAGE[package](thing, budget)
    if isinstance(thing, _WALKED) or is_pythons(kind):
        return None
    if package == "ctypes" and hasattr(thing, "_handle"):  # a library
        return HIDDEN
    try:
        with memoryview(thing) as view:
            if view.readonly or not view.nbytes:
                return view.nbytes
            blocks = _ENDS if package == "mmap" else _BLOCKS
            return budget.of(numpy.frombuffer(view, numpy.uint8), blocks)
    except (TypeError, ValueError, BufferError):
        pass
    if isinstance(thing, types.CoroutineType) or hasattr(kind, "__next__"):
        return MOVES
    if package in _CONSTANT_PACKAGES or (package == "lmdb" and kind.__name__ != "Cursor"):
        return None
    return HIDDEN


_WALKED_MOST = frozenset({dict, set, frozenset, list, tuple, collections.deque, types.FunctionType, types.MethodType})
_WALKED: tuple[type, ...] = (
    *_WALKED_MOST, numpy.ndarray, BaseException,
    types.BuiltinMethodType, types.MappingProxyType, types.SimpleNamespace, types.CellType,
    functools.partial, functools._lru_cache_wrapper, type({}.keys()), type({}.values()), type({}.items()),
)  # fmt: skip


def _of_pandas(thing: Any, _: Budget) -> Any:
    """Values, notes and labels: what is looked up is kept in many places besides."""
    manager: Any = getattr(thing, "_mgr", None)
    if hasattr(manager, "blocks"):
        return Parts((*(block.values for block in manager.blocks), *map(_labels, manager.axes), thing._attrs))
    if getattr(thing, "_categories", None) is not None:
        return Parts((_labels(thing._categories), thing.ordered))
    if (values := getattr(thing, "_ndarray", None)) is not None:
        return Parts((values, thing.dtype))
    is_array = hasattr(type(thing), "_from_sequence")
    return None if is_array or isinstance(thing, typing.Iterator) else 0


def _labels(index: Any) -> Any:
    """An index never changes itself; another one can take its place, maybe at the same address."""
    if hasattr(index, "levels"):
        return len(index), *map(_labels, index.levels)
    return (index.start, index.stop, index.step) if hasattr(index, "step") else index._values


def _of_arrow(thing: Any, budget: Budget) -> Any:
    """Its objects never change; the memory that they show can, unless it is a file's or bytes."""
    kind = type(thing)
    if kind.__module__ != "pyarrow.lib" or hasattr(kind, "__next__"):
        return MOVES
    if hasattr(thing, "is_mutable"):
        content = numpy.frombuffer(thing, numpy.uint8) if thing.is_mutable and thing.size else None
        return thing.address, thing.size, None if content is None else budget.of(content)
    return Parts((id(thing), *_buffers(thing)))


def _buffers(thing: Any) -> Iterator[Any]:
    """Of an array, a column, a table of Arrow's; its parts are objects that are made when they are asked for."""
    if callable(getattr(thing, "buffers", None)):
        yield from thing.buffers()
        return
    parts = getattr(thing, "columns", None) or getattr(thing, "chunks", None) or ()
    for part in parts[:: max(len(parts) // _CHUNKS, 1)]:
        yield from _buffers(part)


def _of_tokenizer(thing: Any, _: Budget) -> Any:
    """What a fast one of transformers is told about lengths it is told with each call; a bare one keeps it."""
    if getattr(thing, "_tokenizer", None) is not None:
        attributes = {name: value for name, value in vars(thing).items() if name != "_tokenizer"}
        return Parts((attributes, thing._tokenizer.get_vocab_size()))
    if hasattr(thing, "get_vocab_size") and hasattr(thing, "enable_padding"):
        return thing.get_vocab_size(), repr(thing.truncation), repr(thing.padding)
    return HIDDEN if type(thing).__name__ == "DecodeStream" else None


def is_pythons(kind: type) -> bool:
    """True for a class whose instances are no more than their attributes: no base has fields of C's that none shows."""
    found = _found_pythons.get(kind)
    if found is None:
        found = _found_pythons[kind] = all(map(_has_no_hidden_field, kind.__mro__))
    return found


_found_pythons: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def _has_no_hidden_field(kind: type) -> bool:
    if kind.__base__ is None:
        return True
    shown = sum(isinstance(value, types.MemberDescriptorType) for value in vars(kind).values())
    shown += ("__dict__" in vars(kind)) + ("__weakref__" in vars(kind))
    return kind.__basicsize__ - kind.__base__.__basicsize__ <= shown * _POINTER


def _of_compiled(thing: Any, _: Budget) -> Any:
    """numba's functions draw from generators of their own, which nobody can read; its objects are memory of C."""
    if module_of(type(thing)).startswith(("numba.typed", "numba.experimental.jitclass.boxing")):
        return HIDDEN
    code = getattr(getattr(thing, "py_func", None), "__code__", None)
    return MOVES if code is not None and not _DRAWS.isdisjoint(code.co_names) else "compiled"


_BY_PACKAGE: dict[str, Callable[[Any, Budget], Any]] = {
    "numba": _of_compiled,
    "pandas": _of_pandas,
    "pyarrow": _of_arrow,
    "tokenizers": _of_tokenizer,
    "transformers": _of_tokenizer,
}
