"""Copies of what globals hold, so that several workers of one process have one each.

Code, generators (whose states are exchanged), what an installed module keeps itself (its constants and registries), and
what cannot be copied stay the same object. So does what is too much: it holds data.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import itertools
import operator
import sys
import threading
import types
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import torch

from safeloader import torch_private
from safeloader.runtime.child.generator_objects import is_generator
from safeloader.runtime.child.user_globals import is_code, is_installed
from safeloader.runtime.counters import reduce_counter
from safeloader.runtime.user_code import module_of, package_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Copier"]

_MOST_VALUES = 20000  # that are copied; what holds more holds data
_MOST_BYTES = 1 << 24  # of arrays and other large objects, in all
_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), type(Ellipsis), range, slice})
_NEVER = frozenset(
    {"threading", "_thread", "queue", "_queue", "concurrent", "multiprocessing", "asyncio", "_asyncio", "subprocess"}
    | {"socket", "_socket", "ssl", "selectors", "logging"}
    | {"_abc"}
)  # whose objects other threads and processes wait for, or are a class's own: a copy would be another one
_WITH_COPY = ("_hashlib", "_sha", "_md5", "_blake", "zlib", "numpy", "xxhash")
_PROTOCOL = 4


class Copier:
    """Copies values; what two names share, their copies share."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no id is used again
        self._left = _MOST_VALUES
        self._bytes_left = _MOST_BYTES
        self._of_packages: set[int] | None = None
        self._unshared: set[int] = set()  # what only the user's own containers refer to
        self._kinds: dict[type, tuple[bool, bool]] = {}  # never copied; of an installed package

    def copies(self, values: dict[str, Any]) -> dict[str, Any]:
        """Of variables; the namespace that they are from refers to each once more."""
        self._note_unshared(values.values(), 2)
        return {name: self.copy(value) for name, value in values.items()}

    def copy(self, value: Any) -> Any:
        """A copy, or the value itself where it cannot change, is too large, or cannot be copied."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if self._left <= 0 or is_code(value) or is_generator(value):
            return value
        self._left -= 1
        try:
            make = Copier._tensor if isinstance(value, torch.Tensor) else _KINDS.get(kind)
            return self._reduced(value) if make is None else make(self, value)
        except Exception:  # an object that does not want it
            return self._note(value, value)

    def _note(self, value: Any, made: Any) -> Any:
        self._made[id(value)] = made
        self._kept.append(value)
        return made

    def _note_unshared(self, values: Iterable[Any], holders: int = 1) -> None:
        """Note those to which nothing refers but so many holders that are known: no package keeps them."""
        most = _REFERENCES_BY_ONE + holders - 1
        for count, value in zip(_references(values), values, strict=True):
            if count <= most:
                self._unshared.add(id(value))

    def _all(self, values: Any) -> Any:
        return map(self.copy, list(values))

    # ------------------------------------------------------------ kinds

    def _list(self, value: Any) -> Any:
        if len(value) > self._left:
            return value
        self._note_unshared(value)
        made = self._note(value, value.copy())
        made.clear()
        made.extend(self._all(value))
        return made

    def _set(self, value: Any) -> Any:
        if len(value) > self._left:
            return value
        made = self._note(value, set())
        made.update(self._all(value))
        return made

    def _dict(self, value: Any) -> Any:
        if len(value) > self._left:
            return value
        self._note_unshared(value.values())
        made = self._note(value, value.copy())
        made.clear()
        for key, item in list(value.items()):
            made[self.copy(key)] = self.copy(item)
        return made

    def _tuple(self, value: Any) -> Any:
        parts = tuple(self._all(value))
        return value if all(map(operator.is_, parts, value)) else self._note(value, parts)

    def _partial(self, value: Any) -> Any:
        args, keywords = self.copy(value.args), self.copy(value.keywords)
        return self._note(value, functools.partial(self.copy(value.func), *args, **keywords))

    def _method(self, value: Any) -> Any:
        owner = self.copy(value.__self__)
        return value if owner is value.__self__ else self._note(value, types.MethodType(value.__func__, owner))

    def _proxy(self, value: Any) -> Any:
        return self._note(value, types.MappingProxyType(self.copy(dict(value))))

    def _cached(self, value: Any) -> Any:
        wrapped = self.copy(value.__wrapped__)
        return self._note(value, functools.lru_cache(**value.cache_parameters())(wrapped))

    def _tensor(self, value: Any) -> Any:
        plain = torch_private.plain_tensor(value)
        self._bytes_left -= sum(part.nbytes for part in torch_private.parts_of(plain))
        if self._bytes_left < 0 or not value.is_leaf or value.device.type != "cpu":
            return value
        plain, kind = plain.clone(), type(value)
        made = plain if kind is torch.Tensor else plain.as_subclass(kind)
        if isinstance(value, torch.nn.Parameter):
            made = kind(plain)
        made.__dict__.update(self.copy(value.__dict__))
        made.grad = self.copy(value.grad)
        return self._note(value, made.requires_grad_(value.requires_grad))

    def _local(self, value: Any) -> Any:
        made = self._note(value, threading.local())
        made.__dict__.update(self.copy(value.__dict__))
        return made

    def _weak_values(self, value: Any) -> Any:
        made = self._note(value, weakref.WeakValueDictionary())
        made.update({key: self.copy(item) for key, item in value.items()})
        return made

    def _weak_keys(self, value: Any) -> Any:
        made = self._note(value, weakref.WeakKeyDictionary())
        for key, item in value.items():
            made[self.copy(key)] = self.copy(item)
        return made

    def _same(self, value: Any) -> Any:
        return value

    # ------------------------------------------------------------ all others, as pickle would

    def _reduced(self, value: Any) -> Any:
        kind = type(value)
        if kind not in self._kinds:
            self._kinds[kind] = _never(kind), is_installed(module_of(kind))
        never, installed = self._kinds[kind]
        if never or (installed and self._is_a_packages(value)):
            return self._note(value, value)
        self._bytes_left -= _size_of(value)
        if self._bytes_left < 0:
            return value
        if callable(own := getattr(kind, "__deepcopy__", None)):
            return self._note(value, own(value, self._made))
        try:
            reduced = _reduce(value)
        except TypeError:  # a digest, an iterator of numpy's
            return self._note(value, value.copy() if module_of(kind).startswith(_WITH_COPY) else value)
        return value if isinstance(reduced, str) else self._rebuilt(value, *reduced)

    def _is_a_packages(self, value: Any) -> bool:
        """True for what a package keeps itself: others compare with it, or register in it.

        Looking at all that packages keep takes as long as all else here, and a fork then has its own copy of every
        page on which something of it lies: it is the last resort.
        """
        if id(value) in self._unshared:
            return False
        own: Any = sys.modules.get(module_of(type(value)))
        if any(kept is value for kept in list(getattr(own, "__dict__", {}).values())):
            return True
        if self._of_packages is None:
            self._of_packages = _kept_by_packages()
        return id(value) in self._of_packages

    def _rebuilt(
        self, value: Any, make: Callable[..., Any], args: Any, state: Any = None, items: Any = None, pairs: Any = None,
        put: Any = None,
    ) -> Any:  # fmt: skip
        if self._kinds[type(value)][1] and _is_among_threads(state):
            return self._note(value, value)
        made = self._note(value, make(*self._all(args)))
        if state is not None:
            self._put_state(made, self.copy(state), put)
        for item in items or ():
            made.append(self.copy(item))
        for key, item in pairs or ():
            made[self.copy(key)] = self.copy(item)
        return made

    @staticmethod
    def _put_state(made: Any, state: Any, put: Any) -> None:
        if put is not None:
            put(made, state)
        elif hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            if attributes:
                made.__dict__.update(attributes)
            for name, item in (slots or {}).items():
                setattr(made, name, item)


_KINDS: dict[type, Callable[[Copier, Any], Any]] = {
    list: Copier._list, collections.deque: Copier._list, set: Copier._set, frozenset: Copier._same,
    dict: Copier._dict, collections.OrderedDict: Copier._dict, collections.defaultdict: Copier._dict,
    collections.Counter: Copier._dict, tuple: Copier._tuple, functools.partial: Copier._partial,
    types.MethodType: Copier._method, types.MappingProxyType: Copier._proxy,
    functools._lru_cache_wrapper: Copier._cached, threading.local: Copier._local,
    weakref.WeakValueDictionary: Copier._weak_values, weakref.WeakKeyDictionary: Copier._weak_keys,
}  # fmt: skip


def _reduce(value: Any) -> Any:
    kind = type(value)
    if (reducer := copyreg.dispatch_table.get(kind)) is not None:
        return reducer(value)
    if kind.__module__ != "itertools":
        return value.__reduce_ex__(_PROTOCOL)
    if kind is itertools.count:
        return reduce_counter(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they cannot be copied one day
        return value.__reduce_ex__(_PROTOCOL)


def _size_of(value: Any) -> int:
    """Bytes that cannot be counted value by value: of arrays, tables, text in memory."""
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    columns = getattr(type(value), "memory_usage", None)
    return sys.getsizeof(value) if columns is None else int(columns(value, deep=False).sum())


def _never(kind: type) -> bool:
    """True for what does something when it ends, and for what threads have in common."""
    if kind in (io.BytesIO, io.StringIO):
        return False
    return hasattr(kind, "__del__") or any(package_of(base) in _NEVER for base in kind.__mro__)


def _is_among_threads(state: Any) -> bool:
    """True for the attributes of what threads have in common."""
    return isinstance(state, dict) and any(_never(type(value)) for value in state.values())


def _references(values: Iterable[Any]) -> list[int]:
    """How many there are to each, those of this function included."""
    return [sys.getrefcount(value) for value in values]


_REFERENCES_BY_ONE = _references([object()])[0]
"""... where there is one besides."""


def _kept_by_packages() -> set[int]:
    """The identities of what modules of installed packages keep in their globals."""
    installed: dict[str, bool] = {}
    found: set[int] = set()
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if package not in installed:
            installed[package] = is_installed(name)
        if installed[package]:
            found.update(map(id, list(getattr(module, "__dict__", {}).values())))
    return found
