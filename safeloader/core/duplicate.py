"""A copy of the supervisor that shares nothing with it that either of them changes.

What the core only carries (indices, snapshots, batches, errors) is shared: it is never looked into, and never changed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.core.supervisor import Supervisor

__all__ = ["duplicate"]

_CARRIED = frozenset({
    "settings", "story", "indices", "snapshot", "epoch_snapshot", "got_snapshot", "result", "stack", "cause", "as_new",
})  # fmt: skip
_NOT_SET = object()
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
_LISTED = frozenset({"log", "marks", "delivered", "done"})  # lists of what is carried
_TABLED = frozenset({"redo"})  # tables of such lists
_PACKAGE = __name__.rpartition(".")[0]


def duplicate(supervisor: Supervisor) -> Supervisor:
    """A supervisor in the same state."""
    copied: Supervisor = _Copier().object(supervisor)
    return copied


class _Copier:
    def __init__(self) -> None:
        self._known: dict[int, Any] = {}
        self._ways: dict[type, Callable[[Any], Any]] = {
            list: self._list, dict: self._dict, set: set.copy, bytearray: bytearray.copy, deque: self._deque,
            tuple: self._tuple, type(self.copy): self._method,
        }  # fmt: skip

    def copy(self, thing: Any) -> Any:
        kind = type(thing)
        if kind in _PLAIN:
            return thing
        way = self._ways.get(kind)
        if way is None:
            ours = kind.__module__.rpartition(".")[0] == _PACKAGE
            if not ours or issubclass(kind, tuple) or hasattr(kind, "__members__"):  # a message, or an enumeration
                return self._known.get(id(thing), thing)
            way = self.object
        known = self._known.get(id(thing))
        return way(thing) if known is None else known

    def _list(self, thing: list[Any]) -> list[Any]:
        made: list[Any] = []
        self._known[id(thing)] = made
        made.extend(map(self.copy, thing))
        return made

    def _deque(self, thing: deque[Any]) -> deque[Any]:
        made: deque[Any] = deque(maxlen=thing.maxlen)
        self._known[id(thing)] = made
        made.extend(map(self.copy, thing))
        return made

    def _dict(self, thing: dict[Any, Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        self._known[id(thing)] = made
        made.update((key, self.copy(value)) for key, value in thing.items())
        return made

    def _tuple(self, thing: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(self.copy, thing))

    def _method(self, thing: Any) -> Any:
        return type(thing)(thing.__func__, self.copy(thing.__self__))

    def object(self, thing: Any) -> Any:
        kind: Any = type(thing)
        made = kind.__new__(kind)
        self._known[id(thing)] = made
        for name in _names(type(thing)):
            value = getattr(thing, name, _NOT_SET)
            if value is not _NOT_SET:
                setattr(made, name, value if type(value) in _PLAIN else self._value(name, value))
        for name, value in getattr(thing, "__dict__", {}).items():
            made.__dict__[name] = value if type(value) in _PLAIN else self._value(name, value)
        return made

    def _value(self, name: str, value: Any) -> Any:
        if name in _CARRIED:
            return value
        if name in _TABLED:
            return {key: listed.copy() for key, listed in value.items()}
        return value.copy() if name in _LISTED and value is not None else self.copy(value)


_slots: dict[type, tuple[str, ...]] = {}


def _names(kind: type) -> tuple[str, ...]:
    if kind not in _slots:
        found = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
        _slots[kind] = tuple(name for name in found if not name.startswith("__"))
    return _slots[kind]
