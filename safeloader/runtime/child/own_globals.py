"""Each worker has globals of its own, also where several of them share a process, or one is in the trainer.

::

    worker A is in            A leaves                      B enters
    module: A's values  ──▶   module: as before any  ──▶    module: B's values
                              worker; A's are kept          (at first copies of those from before any worker)

Values are exchanged, not copied, each time. Only what can be changed in place (containers, arrays, objects of the
user's classes) is copied once, when a worker is set up, so that none changes another's; a cached function is made anew.
"""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import sys
from typing import TYPE_CHECKING, Any

from safeloader.runtime.child.generator_objects import is_generator
from safeloader.runtime.child.user_globals import is_code, is_installed, namespaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["OwnGlobals"]

_MOST_VALUES = 20000  # that are copied; what holds more holds data
_MOST_BYTES = 1 << 24  # of arrays, in all
_LISTS: tuple[type, ...] = (list, set, collections.deque)
_DICTS: tuple[type, ...] = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_SPECIAL = (
    "__new__",
    "__del__",
    "__deepcopy__",
    "__copy__",
    "__getstate__",
    "__reduce__",
    "__reduce_ex__",
    "__slots__",
)

Values = list[dict[str, Any]]


class OwnGlobals:
    """Those of one worker.

    Args:
        roots: its dataset and functions.
        first: the process is there for this worker, so what is there is its own; else it is somebody else's.
        script: in the trainer, variables of the main script as they were sent, with which a worker begins. In a process
            each worker has a main script of its own.
    """

    def __init__(self, roots: Iterable[Any], first: bool, script: Mapping[str, Any] | None = None) -> None:
        found = namespaces(roots)
        self._in_c = [kind for namespace in found for kind in namespace.in_c()]
        self._private = [namespace for namespace in found if script is None and namespace.is_of_script]
        self._namespaces = [namespace for namespace in found if namespace not in self._private]
        now = self._read()
        copier = _Copier()
        copies = [{name: copier.copy(value) for name, value in values.items()} for values in now]
        for namespace, values in zip(self._namespaces, copies, strict=True):
            if script and namespace.holder is vars(sys.modules["__main__"]):
                values.update((name, script[name]) for name in values.keys() & script.keys())
        self._mine = now if first else copies
        self._outside: Values | None = copies if first else None  # what is there while another is in
        self._entered = first  # ... and all of it is this worker's
        self._left: Values | None = None

    def enter(self) -> None:
        """This worker works now: its values are there."""
        if self._outside is None:
            self._outside = self._read()
            self._put(self._mine)
            self._entered = True

    def leave(self) -> None:
        """Another one works: what was there before is there again. Broken off by an exception, it is to be repeated."""
        if self._outside is None:
            return
        if self._left is None:
            self._left = self._read() if self._entered else self._mine
        self._put(self._outside)
        self._mine, self._left, self._entered, self._outside = self._left, None, False, None

    def values(self) -> list[Any]:
        """What this worker has now, for a digest: without code, but with a word for state of C's that code names."""
        own = self._mine if self._outside is None else self._read()
        own = own + [namespace.read() for namespace in self._private]
        return [{name: value for name, value in values.items() if not is_code(value)} for values in own] + self._in_c

    def _read(self) -> Values:
        return [namespace.read() for namespace in self._namespaces]

    def _put(self, values: Values) -> None:
        for namespace, own in zip(self._namespaces, values, strict=True):
            namespace.put(own)


class _Copier:
    """Copies what can be changed in place; what two names share, their copies share."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no id is used again
        self._left = _MOST_VALUES
        self._bytes_left = _MOST_BYTES

    def copy(self, value: Any) -> Any:
        """A copy, or the value itself where it cannot change, is too large, or cannot be copied."""
        if id(value) in self._made:
            return self._made[id(value)]
        if self._left <= 0 or is_code(value) or is_generator(value):
            return value
        try:
            return self._copied(value)
        except Exception:  # an object that does not want it
            self._made[id(value)] = value
            return value

    def _note(self, value: Any, made: Any) -> Any:
        self._made[id(value)] = made
        self._kept.append(value)
        return made

    def _copied(self, value: Any) -> Any:
        kind = type(value)
        if kind in _LISTS or kind in _DICTS:
            if len(value) > self._left:
                return value
            self._left -= len(value)
            made = self._note(value, copy.copy(value))
            if kind in _DICTS:
                for key, item in value.items():
                    made[key] = self.copy(item)
            elif kind is not set:
                made.clear()
                made.extend(map(self.copy, value))
            return made
        if kind is tuple:
            parts = tuple(map(self.copy, value))
            return value if all(map(_is, parts, value)) else self._note(value, parts)
        if kind in (bytearray, itertools.count):
            return self._note(value, copy.copy(value))
        if kind is functools._lru_cache_wrapper:
            return self._note(value, functools.lru_cache(**value.cache_parameters())(value.__wrapped__))
        size = _size_of_array(value)
        if size is not None and size <= self._bytes_left:
            self._bytes_left -= size
            return self._note(value, value.copy() if hasattr(value, "copy") else value.detach().clone())
        return self._object(value) if _is_plain_object(value) else value

    def _object(self, value: Any) -> Any:
        self._left -= 1
        made = self._note(value, object.__new__(type(value)))
        vars(made).update((name, self.copy(item)) for name, item in vars(value).items())
        return made


def _is(one: Any, other: Any) -> bool:
    return one is other


def _is_plain_object(value: Any) -> bool:
    """True for an instance of a class of the user's that is no more than its attributes."""
    kind = type(value)
    if is_installed(kind.__module__) or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    return not any(name in vars(base) for base in kind.__mro__[:-1] for name in _SPECIAL)


def _size_of_array(value: Any) -> int | None:
    """Bytes of a plain array or tensor."""
    numpy: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
    if numpy is not None and type(value) is numpy.ndarray and not value.dtype.hasobject:
        return int(value.nbytes)
    return value.numel() * value.element_size() if torch is not None and type(value) is torch.Tensor else None
