"""The writing half of `carry`: which object goes how into the stream.

======================================================  ====================================================
kind of object                                          how it goes
======================================================  ====================================================
int, str, list, dict, ... and importable things         as in plain pickle, at its speed
classes, functions of ``__main__`` and the like         by value (cloudpickle); each class has a number
arrays, tensors' storages                               out of band: their memory itself, uncopied
the same in shared memory, a fork context's locks        mapped again, and stay shared
`numpy.memmap` of a file                                by the file's name
what processes share already (mp, shared tensors)       as multiprocessing's spawn would hand it over
open files, archives, databases, locks                  opened again, made new (`safeloader.runtime.handles`)
tensors on an accelerator                               refused, with advice
======================================================  ====================================================
"""

from __future__ import annotations

import enum
import functools
import io
import os
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from multiprocessing import context, resource_tracker
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
from cloudpickle.cloudpickle import _dynamic_class_reduce, _make_skeleton_class

from safeloader.runtime.by_value import rebuild
from safeloader.runtime.by_value.classes import born_with, enum_extras
from safeloader.runtime.by_value.importable import asking, importable, importable_as
from safeloader.runtime.by_value.kinds import (
    FORKS_OF_MULTIPROCESSING,
    Reduced,
    reduce_ctypes,
    reduce_memmap,
    reduce_stream,
    reducers,
    taught,
)
from safeloader.runtime.by_value.overlaps import OutOfBand
from safeloader.runtime.handles import table

if TYPE_CHECKING:
    import pickle
    from collections.abc import Iterator, Mapping

_Handler = Callable[[Any, Any], Reduced]


class Parcel(Protocol):
    """What is filled: a `safeloader.runtime.by_value.Packed`."""

    stream: bytes
    buffers: list[memoryview]
    classes: list[type]
    fds: list[int]
    tracker: int | None
    modules: tuple[str, ...]
    handles: list[tuple[str, str]]

    def add(self, buffer: memoryview) -> None: ...
    def restart(self) -> None: ...


def pack_into(packed: Parcel, obj: Any, roots: Mapping[str, object]) -> None:
    """Serialise `obj`, whose parts are called `roots`, into `packed`, whose descriptors the caller closes if this
    fails."""
    out_of_band = OutOfBand(packed.add)

    def dump() -> tuple[io.BytesIO, CarryPickler]:
        file = io.BytesIO()
        pickler = CarryPickler(file, out_of_band, inherit=True)
        # The list is filled while the object is pickled, and comes after it.
        pickler.dump((obj, pickler.classes))
        return file, pickler

    with handing_over(packed.fds), asking() as asked:
        file, pickler = dump()
        if out_of_band.has_missed():
            packed.restart()
            file, pickler = dump()
    packed.stream, packed.classes = file.getvalue(), pickler.classes
    if pickler.handles:
        from safeloader.runtime.handles.naming import named

        packed.handles = named(pickler.handles, pickler.holders, roots)
    packed.modules = tuple(sorted(name for name in asked if importable(name)))
    tracker: int | None = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]
    if tracker is not None:
        packed.tracker = len(packed.fds)
        packed.fds.append(os.dup(tracker))


def dump_bytes(obj: Any, classes: Sequence[type]) -> bytes:
    """Serialise `obj` with everything in one piece; `classes` go as numbers."""
    file = io.BytesIO()
    pickler = CarryPickler(file, None, inherit=False, known=classes)
    pickler.dump(obj)
    return file.getvalue()


class CarryPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """One dump by the rules of this module.

    Args:
        file: Gets the stream.
        keep: Called with each buffer; returns True to put it into the stream. None: all go into the stream.
        inherit: Readers inherit descriptors; what is shared between processes stays shared.
        known: Classes that the reader knows by number.

    Attributes:
        handles: What is open here and will be opened again by each reader, with words for people.
        holders: By id, what a part of something open belongs to.
    """

    def __init__(
        self,
        file: Any,
        keep: Callable[[pickle.PickleBuffer], bool] | None,
        *,
        inherit: bool,
        known: Sequence[type] = (),
    ) -> None:
        # One flat dict: the C pickler looks into it without a call, unlike into cloudpickle's ChainMap.
        self.dispatch_table = reducers(inherit=inherit)
        super().__init__(file, protocol=5, buffer_callback=keep)
        self.inherit = inherit
        self.classes: list[type] = []
        self._known = {cls: number for number, cls in enumerate(known)}
        self.handles: list[tuple[Any, str]] = []
        self.holders: dict[int, Any] = {}
        self._taught = taught() if inherit else {}
        self._same: dict[Any, Any] = {}
        # By id, as a metaclass may make its classes unhashable. Types live at least as long as their objects
        # here.
        self._handlers: dict[int, _Handler | None] = {}

    def reducer_override(self, obj: Any) -> Reduced:
        """Choose how `obj` goes; called for all but plain numbers, strings and containers."""
        kind = type(obj)
        try:
            handler = self._handlers[id(kind)]
        except KeyError:
            handler = self._handlers[id(kind)] = self._handler_for(kind)
        return NotImplemented if handler is None else handler(self, obj)

    def reduce(self, obj: Any) -> Reduced:
        """Reduce one object as `dump` would, to look at its parts."""
        reduced = self.reducer_override(obj)
        if reduced is not NotImplemented:
            return reduced
        reducer = self.dispatch_table.get(type(obj))
        return reducer(obj) if reducer else obj.__reduce_ex__(5)

    def reduce_class(self, cls: type) -> Reduced:
        """By number if the reader has it, by name if it can import it, else by value."""
        number = self._known.get(cls)
        if number is not None:
            return rebuild.numbered_class, (number,)
        if type(cls).__module__ == "_ctypes" and (of_ctypes := reduce_ctypes(cls)) is not None:
            return of_ctypes
        reduced = _dynamic_class_reduce(cls) if _only_here(cls) else super().reducer_override(cls)
        if isinstance(reduced, tuple) and reduced[0] is _make_skeleton_class:
            make, (kind, name, bases, given, *more), *rest = reduced
            reduced = (make, (kind, name, bases, {**given, **born_with(cls)}, *more), *rest)
        if not self.inherit or not isinstance(reduced, tuple) or len(reduced) != 6:
            return reduced
        make, args, state, _, _, fill = reduced
        # Without cloudpickle's mark of origin each read makes a class of its own; with it a second read, or
        # one in the trainer, would find the first class and put other functions into it.
        args = (*args[:-2], None, args[-1])
        number = len(self.classes)
        self.classes.append(cls)
        state = fill, state, enum_extras(cls) if issubclass(cls, enum.Enum) else None
        return rebuild.make_class, (number, make, args), state, None, None, rebuild.fill_class

    def reduce_function(self, function: types.FunctionType) -> Reduced:
        """By name if the reader can import it, else by value with the variables that it uses."""
        here = _only_here(function)
        reduced = self._dynamic_function_reduce(function) if here else super().reducer_override(function)
        if not isinstance(reduced, tuple):
            return reduced
        _, (code, variables, name, defaults, _), (attributes, slots), *_ = reduced
        # The cells themselves, where cloudpickle gives each function cells of its own: two functions may
        # share a captured variable and change it.
        slots["__closure__"] = None
        args = code, variables, name, defaults, function.__closure__
        return rebuild.function, args, (attributes, slots), None, None, rebuild.fill_function

    def reduce_lru_cache(self, cached: Any) -> Reduced:
        """By name if the reader can import it, else with an empty cache; functools knows only names."""
        if importable_as(cached, cached.__module__, cached.__qualname__):
            return cached.__qualname__
        settings = cached.cache_parameters()
        args = (cached.__wrapped__, settings["maxsize"], settings["typed"])
        return rebuild.lru_cached, args

    def reduce_module(self, module: types.ModuleType) -> Reduced:
        """By name, or by value where no fresh interpreter can import it."""
        if module.__name__ in ("__main__", "__mp_main__") or importable(module.__name__):
            return super().dispatch[types.ModuleType](module)
        loaded_by = ("__builtins__", "__spec__", "__loader__")
        contents = {name: value for name, value in vars(module).items() if name not in loaded_by}
        return rebuild.make_module, (module.__name__,), contents, None, None, rebuild.fill_module

    def reduce_generator(self, generator: Any) -> Reduced:
        """As it says itself; the reader is told that it is there, since its state is kept (`own_generators`)."""
        reducer = self.dispatch_table.get(type(generator))
        reduced = reducer(generator) if reducer else generator.__reduce_ex__(5)
        if not isinstance(reduced, tuple):
            return reduced
        make, args, *rest = reduced
        return rebuild.random_generator, (make, args), *rest

    def storage(self, storage: Any) -> Any:
        """Return the one object that stands for this memory, so that two views of it stay aliases."""
        if not storage.nbytes():  # nothing to share, and all of these are at address 0
            return storage
        return self.same((storage.data_ptr(), storage.nbytes()), storage)

    def same(self, key: Any, obj: Any) -> Any:
        """Return the first object that came with this key. It lives as long as this dump."""
        return self._same.setdefault(key, obj)

    def holds(self, whole: Any, part: Any) -> None:
        """The part is known to people by the whole."""
        self.holders[id(part)] = self.same(id(part), whole)

    def reopened(self, obj: Any, words: str, make: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
        """Reduce `obj` to ``make(*args)`` in each reader, who looks after what that opens.

        Args:
            obj: What is open here.
            words: What it is, for people.
            make: Opens it.
            args: Serialised as well.
        """
        self.handles.append((obj, words))
        return rebuild.reopened, (len(self.handles) - 1, make, args)

    def _handler_for(self, kind: type) -> _Handler | None:
        """What others have taught goes first: what is registered with `safeloader.carry`, then with the library."""
        if not self.inherit:
            return _known_handler(kind)
        registered: _Handler | None = table.registered(kind)
        if registered is not None:
            return registered
        if kind in self._taught:
            return None  # the pickler finds it in its table of reducers
        return _known_handler(kind) or table.handler_for(kind)


def _only_here(obj: Any) -> bool:
    """Return True for a class or function of a module that has a name, but in this process only."""
    module: str | None = getattr(obj, "__module__", None)
    return bool(module) and module in sys.modules and not importable(module)


def _known_handler(kind: type) -> _Handler | None:
    if issubclass(kind, type):
        return CarryPickler.reduce_class
    if kind in _HANDLERS:
        return _HANDLERS[kind]
    if kind in (type(sys.stdout), type(sys.stderr)):
        return _reduce_stream
    # What is not imported has no instances.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and issubclass(kind, (torch.Tensor, torch.UntypedStorage, torch.TypedStorage)):
        from safeloader.runtime.by_value import tensors

        return tensors.handler_for(kind)
    if numpy is not None and kind is numpy.memmap:
        return _reduce_memmap
    return CarryPickler.reduce_generator if _makes_generators(kind) else None


def _reduce_memmap(pickler: CarryPickler, array: Any) -> Reduced:
    """By its file where the reader opens it; in a message, and where the system does not tell, by its name."""
    if pickler.inherit and os.path.exists("/proc/self/maps"):
        from safeloader.runtime.handles.maps import reduce_memmap as open_again

        return open_again(pickler, array)
    return reduce_memmap(array)


def _reduce_stream(pickler: CarryPickler, stream: Any) -> Reduced:
    reduced = reduce_stream(stream)
    if reduced is not NotImplemented or not pickler.inherit:
        return reduced
    handler = table.handler_for(type(stream))  # most text files are of the same class
    return NotImplemented if handler is None else handler(pickler, stream)


def _makes_generators(kind: type) -> bool:
    """True for classes of random generator objects."""
    kinds = [getattr(sys.modules.get("random"), "Random", None), getattr(sys.modules.get("torch"), "Generator", None)]
    numpy_random = sys.modules.get("numpy.random")
    kinds += [getattr(numpy_random, name, None) for name in ("Generator", "RandomState", "BitGenerator")]
    return issubclass(kind, tuple(found for found in kinds if found is not None))


@contextmanager
def handing_over(fds: list[int]) -> Iterator[None]:
    """Let multiprocessing's objects believe that a process is spawned; gather the descriptors it needs."""
    libraries = (sys.modules.get(f"{name}.context") for name in FORKS_OF_MULTIPROCESSING)
    contexts: list[Any] = [context, *(found for found in libraries if hasattr(found, "set_spawning_popen"))]
    before = [found.get_spawning_popen() for found in contexts]
    for found in contexts:
        found.set_spawning_popen(_Spawning(fds))
    try:
        yield
    finally:
        for found, popen in zip(contexts, before, strict=True):
            found.set_spawning_popen(popen)


class _Spawning:
    """What multiprocessing asks of a process that is being spawned."""

    DupFd = rebuild.Inherited

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def duplicate_for_child(self, fd: int) -> int:
        """Keep a duplicate for the readers; return its number in the stream."""
        self._fds.append(os.dup(fd))
        return len(self._fds) - 1


_HANDLERS: dict[type, _Handler] = {
    types.FunctionType: CarryPickler.reduce_function,
    types.ModuleType: CarryPickler.reduce_module,
    type(functools.lru_cache(len)): CarryPickler.reduce_lru_cache,
}
