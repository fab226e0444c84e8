"""Whether objects of the user's change themselves: a bounded digest of what they hold, before and after.

It follows attributes, containers, closures and bound methods to so many values, and takes the state of random
generators, the position of open files, and a part of each array; so it does with the globals and class attributes that
the user's own code names (`child.user_globals`). Two equal digests do not prove that nothing changed (a value may lie
too deep); two different ones prove that something did.
"""

from __future__ import annotations

import collections
import functools
import io
import itertools
import logging
import pathlib
import random
import sys
import types
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Change", "digest"]

_SHARE = 0.0025  # of the time
_VALUES = 2000
_OF_EACH = 200  # elements of a container
_BYTES = 1024  # of an array or a text, at either end
_CONTAINERS: tuple[Any, ...] = (dict, set, frozenset, list, tuple, collections.deque)
_PLAIN = (int, float, complex, bool, type(None), type(Ellipsis))
_PASSED_BY = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, logging.Logger, logging.Handler)


class Change:
    """Looks at objects after their tasks until they have changed: after 1, 2, 4, ..., and as often as it costs little.

    Args:
        things: what to look at, as it is before the first task.
        kept: gives what belongs to them and lies elsewhere.
        besides: true for objects that do not count.
        clock: seconds.
    """

    def __init__(
        self,
        things: Any,
        kept: Callable[[], Any] = tuple,
        besides: Callable[[Any], bool] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._things = things
        self._kept = kept
        self._besides = besides
        self._clock = clock
        self._before = self._digests()
        self._tasks = 0
        self._next = 1
        self._due = 0.0

    def seen(self) -> bool:
        """Count a task. True if a change is seen after it."""
        self._tasks += 1
        began = self._clock()
        if self._tasks < self._next and began < self._due:
            return False
        if self._tasks >= self._next:
            self._next *= 2
        found = self.there()
        now = self._clock()
        self._due = now + (now - began) / _SHARE
        return found

    def there(self) -> bool:
        """True if there is a change now."""
        return self._digests() != self._before

    def _digests(self) -> tuple[int, int]:
        return digest(self._things, self._besides), digest(self._kept(), self._besides)


def digest(thing: Any, besides: Callable[[Any], bool] | None = None) -> int:
    """A number that changes with what ``thing`` holds, apart from objects for which ``besides`` is true."""
    return _Walk(besides).number(thing)


class _Walk:
    def __init__(self, besides: Callable[[Any], bool] | None) -> None:
        self._besides = besides
        self._left = _VALUES
        self._met: dict[int, int] = {}

    def number(self, thing: Any) -> int:
        """Equal for what is the same as it was."""
        kind = type(thing)
        if kind in _PLAIN:
            return hash((kind.__name__, repr(thing)))
        self._left -= 1
        if self._besides is not None and self._besides(thing):
            return self.number(None)
        if self._left < 0 or isinstance(thing, _PASSED_BY):
            return hash(kind)
        if id(thing) in self._met:
            return self._met[id(thing)]
        self._met[id(thing)] = len(self._met)
        try:
            return hash((kind, self._content(thing)))
        except Exception:  # it does not want to be looked at
            return hash(kind)

    def _content(self, thing: Any) -> Any:
        if isinstance(thing, (str, bytes, bytearray)):
            return len(thing), bytes(thing[:_BYTES]) + bytes(thing[-_BYTES:]) if not isinstance(thing, str) else (
                thing[:_BYTES], thing[-_BYTES:]
            )  # fmt: skip
        special = _special(thing)
        if special is not None:
            return special
        inside: list[Any] = [self.number(part) for part in _attributes(thing) if self._counts(part)]
        base = next((base for base in _CONTAINERS if isinstance(thing, base)), None)
        if base is dict:
            items = dict.items(thing)
            last = min(max(len(items) - _OF_EACH, 0), _OF_EACH)
            pairs = [*itertools.islice(items, _OF_EACH), *itertools.islice(reversed(items), last)]
            counted = [(key, value) for key, value in pairs if self._counts(value)]
            inside.append(len(items) - len(pairs) + len(counted))
            inside += [(self.number(key), self.number(value)) for key, value in counted]
        elif base in (set, frozenset):
            inside += [base.__len__(thing), sum(self.number(part) for part in itertools.islice(thing, _OF_EACH))]
        elif base is not None:
            count = base.__len__(thing)
            numbers = {*range(min(count, _OF_EACH)), *range(max(count - _OF_EACH, 0), count)}
            counted = [part for number in sorted(numbers) if self._counts(part := base.__getitem__(thing, number))]
            inside.append(count - len(numbers) + len(counted))
            inside += [self.number(part) for part in counted]
        return tuple(inside)

    def _counts(self, part: Any) -> bool:
        """What is to be left out may as well not be there yet: a generator is made with the first sample, as a rule."""
        return self._besides is None or not (part is None or self._besides(part))


def _special(thing: Any) -> Any:
    """Generators, files, arrays, iterators: what has no attributes that tell."""
    found = _numpys(thing)
    if found is None:
        found = _torchs(thing)
    return _pythons(thing) if found is None else found


def _pythons(thing: Any) -> Any:
    if isinstance(thing, random.Random):
        return hash(thing.getstate())
    if isinstance(thing, pathlib.PurePath):
        return str(thing)  # it keeps its parts and its hash once somebody asks
    if isinstance(thing, io.TextIOWrapper):
        return _pythons(thing.buffer)
    if type(thing) in (io.BufferedReader, io.FileIO, io.BytesIO, io.StringIO):
        return thing.closed or thing.tell()
    if isinstance(thing, types.GeneratorType):
        frame = thing.gi_frame
        return frame is not None and (frame.f_lasti, frame.f_lineno)
    if isinstance(thing, (itertools.count, itertools.repeat)):
        return repr(thing)
    kind = type(thing)
    if kind.__module__ == "builtins" and hasattr(kind, "__next__"):  # list_iterator, zip, ...
        return repr(thing.__reduce__()[1:])[:_BYTES]
    return None


def _numpys(thing: Any) -> Any:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(thing, numpy.ndarray):
        flat = thing.reshape(-1) if thing.flags.c_contiguous else thing.flat
        part = max(_BYTES // max(thing.itemsize, 1), 1)
        if thing.dtype.hasobject:
            return thing.shape
        return thing.shape, str(thing.dtype), flat[:part].tobytes(), flat[-part:].tobytes()
    if isinstance(thing, numpy.random.RandomState):
        kind, key, *rest = thing.get_state()
        return kind, key.tobytes(), *rest
    if isinstance(thing, numpy.random.Generator):
        return repr(thing.bit_generator.state)
    return repr(thing.state) if isinstance(thing, numpy.random.BitGenerator) else None


def _torchs(thing: Any) -> Any:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(thing, torch.Tensor):
        flat = thing.detach().reshape(-1) if thing.is_contiguous() else thing.detach()[:1].reshape(-1)
        part = max(_BYTES // thing.element_size(), 1)
        return tuple(thing.shape), str(thing.dtype), repr((flat[:part].tolist(), flat[-part:].tolist())), thing._version
    return thing.get_state().numpy().tobytes() if isinstance(thing, torch.Generator) else None


def _attributes(thing: Any) -> list[Any]:
    """What hangs on an object besides its elements; found without running code of the user's."""
    parts: list[Any] = []
    if isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            parts.append(cell.cell_contents)
        return [*parts, thing.__defaults__, thing.__kwdefaults__, thing.__dict__]
    if isinstance(thing, types.MethodType):
        return [thing.__self__]
    if isinstance(thing, functools._lru_cache_wrapper):
        parts.append(repr(thing.cache_info()))
    if isinstance(thing, functools.partial):
        parts += [thing.func, thing.args, thing.keywords]
    for kind in type(thing).__mro__:
        members = [value for value in vars(kind).values() if isinstance(value, types.MemberDescriptorType)]
        parts += [value for member in members if (value := _member(member, thing)) is not None]
    try:
        parts.append(object.__getattribute__(thing, "__dict__"))
    except AttributeError:
        pass
    return parts


def _member(member: Any, thing: Any) -> Any:
    """A slot's value; None for one that is not set."""
    try:
        return member.__get__(thing)
    except AttributeError:
        return None
