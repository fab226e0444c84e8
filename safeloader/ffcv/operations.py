"""The user's operations as a loader uses them: views that share every attribute, and what of it changed since when.

FFCV keeps no copy of an operation, so that ``decoder.output_size = (192, 192)`` before an epoch is how its recipes
change the size. Here FFCV runs a *view* of each operation: an object of a subclass with the same ``__dict__``, so that
either side sees what the other sets. A view keeps for itself only what FFCV writes into operations (the field, its
metadata, its reader), so that one operation can serve several loaders.

Where FFCV runs in another process, `Attributes` on both sides tells what changed, attribute by attribute.
"""

from __future__ import annotations

import pickle
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from safeloader.errors import NotCarriableError, PipelineError
from safeloader.runtime import by_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Attributes", "Factory", "keeps_state", "view"]

_FFCVS = ("field", "metadata", "memory_read")  # what FFCV writes into every operation
_SIZES = ("output_size", "size")
_Pickled = dict[tuple[int, str], "bytes | int"]
_made: dict[tuple[type, bool, tuple[type, ...]], type] = {}


def view(operation: Any, sized: bool, *tops: type) -> Any:
    """An object that shares the operation's attributes.

    Args:
        operation: The user's.
        sized: Its size is its own, not the operation's: a schedule sets it.
        tops: Classes to put on top of the operation's own.
    """
    cls = type(operation)
    kept = tuple(name for name in _SIZES if sized and name in vars(operation))
    key = (cls, bool(kept), tops)
    if key not in _made:
        body: dict[str, Any] = {"__slots__": ("_origin", *_FFCVS, *kept), "__module__": cls.__module__}
        body.update({name: _forwarded(name) for name in _slots(cls) if name not in body["__slots__"]})
        metaclass: Any = type(cls)
        _made[key] = metaclass(cls.__name__, (*tops, cls), body)
    ours: Any = object.__new__(_made[key])
    ours.__dict__ = operation.__dict__
    ours._origin = operation
    for name in kept:
        setattr(ours, name, vars(operation)[name])
    return ours


def _slots(cls: type) -> list[str]:
    found = []
    for base in cls.__mro__:
        names = base.__dict__.get("__slots__", ())
        found += [names] if isinstance(names, str) else list(names)
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _forwarded(name: str) -> Any:
    def get(self: Any) -> Any:
        return getattr(self._origin, name)

    def put(self: Any, value: Any) -> None:
        setattr(self._origin, name, value)

    return property(get, put)


class Factory:
    """Holds ``pipelines(size)`` as an operation holds an attribute.

    Args:
        function: The user's function.
    """

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def __call__(self, size: int) -> Any:
        """The pipelines of a size."""
        return self.function(size)


def keeps_state(operation: Any) -> bool:
    """Whether running it may change it: code of the user's, run as Python. FFCV's own operations keep nothing."""
    return not type(operation).__module__.startswith("ffcv.") and not isinstance(operation, Factory)


class Attributes:
    """What changed in the attributes of operations since two moments: the beginning, and the last `start`.

    Both sides make one over the same operations: the trainer when it sends them, the process when it has them.

    Args:
        operations: Each once, in the same order on both sides.
    """

    def __init__(self, operations: Iterable[Any]) -> None:
        self._operations = list(operations)
        self._running = [number for number, op in enumerate(self._operations) if keeps_state(op)]
        self._first = self._pickled()
        self._start = self._pickled(self._running)
        self._heard: dict[tuple[int, str], int] = {}

    @property
    def may_change(self) -> bool:
        """Whether running the operations may change them."""
        return bool(self._running)

    def settle(self) -> None:
        """What was changed up to now is where `become` begins; `since_start` still counts it."""
        self._first = self._pickled()

    # ------------------------------------------------------------ telling

    def start(self) -> None:
        """`since_start` counts from now, and what is heard is news."""
        self._start = self._pickled(self._running)
        self._heard = {}

    def changes(self) -> bytes | None:
        """All that differs from the beginning; None if nothing does.

        Raises:
            PipelineError: Such a value cannot be sent to another process.
        """
        return self._told(self._first, self._pickled())

    def since_start(self) -> bytes | None:
        """What running the operations changed since the last `start`; None if nothing.

        Raises:
            PipelineError: Such a value cannot be sent to another process.
        """
        return self._told(self._start, self._pickled(self._running)) if self._running else None

    def _told(self, before: _Pickled, now: _Pickled) -> bytes | None:
        changed = {key: blob for key, blob in now.items() if before.get(key) != blob}
        gone = [key for key in before if key not in now]
        if not changed and not gone:
            return None
        for (number, name), blob in changed.items():
            if isinstance(blob, int):
                raise PipelineError(
                    f"{type(self._operations[number]).__name__}.{name} was changed to something that cannot be sent "
                    "to another process",
                    hint="Policy(ffcv_mode='trainer') runs the pipelines in the trainer",
                )
        values = [_held(self._operations[number])[name] for number, name in changed]
        sums = [zlib.crc32(blob) for blob in changed.values() if isinstance(blob, bytes)]
        return by_value.dumps((list(changed), sums, values, gone))

    def _pickled(self, numbers: Iterable[int] | None = None) -> _Pickled:
        """Each attribute in bytes; one that cannot be pickled as its identity."""
        found: _Pickled = {}
        for number in range(len(self._operations)) if numbers is None else numbers:
            for name, value in _held(self._operations[number]).items():
                try:
                    found[number, name] = by_value.dumps(value)
                except (NotCarriableError, TypeError, pickle.PicklingError):
                    found[number, name] = id(value)
        return found

    # ------------------------------------------------------------ hearing

    def become(self, changes: bytes | None) -> bool:
        """Be as the other side is: its changes since the beginning, and nothing else. True if that changes anything."""
        told = by_value.loads(changes) if changes is not None else ([], [], [], [])
        keys = set(map(tuple, told[0])) | set(map(tuple, told[3]))
        now = self._pickled()
        for key, blob in self._first.items():
            if key not in keys and isinstance(blob, bytes) and now.get(key) != blob:
                _put(self._operations[key[0]], key[1], by_value.loads(blob))
        for number, name in [key for key in now if key not in self._first and key not in keys]:
            _drop(self._operations[number], name)
        self._put_all(told)
        after = self._pickled()
        self._start.update({key: after[key] for key in keys if key in self._start and key in after})
        return after != now

    def hear(self, changes: bytes) -> None:
        """Take over the other side's changes since its `start`, as far as they are news."""
        keys, sums, values, gone = by_value.loads(changes)
        news = [n for n, key in enumerate(keys) if self._heard.get(tuple(key)) != sums[n]]
        self._heard.update({tuple(keys[n]): sums[n] for n in news})
        self._put_all(([keys[n] for n in news], [], [values[n] for n in news], gone))

    def _put_all(self, told: Any) -> None:
        for (number, name), value in zip(told[0], told[2], strict=True):
            _put(self._operations[number], name, value)
        for number, name in told[3]:
            _drop(self._operations[number], name)


def _held(operation: Any) -> dict[str, Any]:
    held = {name: value for name, value in vars(operation).items() if name not in _FFCVS}
    for name in _slots(type(operation)):
        if hasattr(operation, name):
            held[name] = getattr(operation, name)
    return held


def _drop(operation: Any, name: str) -> None:
    if name in _held(operation):
        delattr(operation, name)


def _put(operation: Any, name: str, value: Any) -> None:
    """Set an attribute; a container or tensor that is there gets the new content, so that who holds it sees it."""
    before = _held(operation).get(name)
    if not _filled(before, value):
        setattr(operation, name, value)


def _filled(before: Any, value: Any) -> bool:
    if type(before) is not type(value):
        return False
    if isinstance(before, torch.Tensor):
        if before.shape != value.shape or before.dtype != value.dtype:
            return False
        with torch.no_grad():
            before.copy_(value)
    elif isinstance(before, np.ndarray):
        if before.shape != value.shape or before.dtype != value.dtype or not before.flags.writeable:
            return False
        before[...] = value
    elif isinstance(before, (list, bytearray)):
        before[:] = value
    elif isinstance(before, dict):
        _fill_dict(before, value)
    elif isinstance(before, set):
        before.clear()
        before.update(value)
    elif isinstance(before, torch.nn.Module):
        _fill_dict(vars(before), vars(value))
    else:
        return False
    return True


def _fill_dict(before: dict[Any, Any], value: dict[Any, Any]) -> None:
    for key in [key for key in before if key not in value]:
        del before[key]
    for key, item in value.items():
        if key not in before or not _filled(before[key], item):
            before[key] = item
