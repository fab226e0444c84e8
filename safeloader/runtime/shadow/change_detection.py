"""Whether objects of the user's change themselves: a bounded digest of what they hold, before and after.

It follows attributes, containers, closures and bound methods to so many values, and takes the content of what has no
attributes (`contents`); so it does with the globals and class attributes that the user's own code names
(`child.user_globals`). Two equal digests do not prove that nothing changed (a value may lie too deep, or nothing may
tell: ``hidden``); two different ones prove that something did, or that something is there which moves when it is used.
"""

from __future__ import annotations

import collections
import functools
import itertools
import logging
import marshal
import types
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from safeloader.runtime.child.reach import referents
from safeloader.runtime.shadow.contents import (
    HIDDEN,
    MOVES,
    Budget,
    Parts,
    added,
    content_of,
    is_pythons,
    slot,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Change", "Digest", "digest"]

_SHARE = 0.0025  # of the time
_CHEAP = 0.003  # seconds
_AT_FIRST = 2  # tasks after which it looks whatever that costs: the second look is the first at all there is
_VALUES = 2000
_PLAIN_BYTES = 1 << 19  # of marshalled elements of containers, for one digest: 5 to 10 ms
_OF_EACH = 200  # elements that are read together, and of those that are not plain values at either end
_PLAIN = (int, float, complex, bool, type(None), type(Ellipsis))
_MARSHALLED = frozenset({*_PLAIN, str, bytes})
_NESTED = frozenset({list, tuple, dict})
_DEEPEST = 8
_MOST_NESTED = 100_000
_OWN_ELEMENTS = (dict, set, frozenset, list, tuple, collections.deque, functools.partial, numpy.ndarray)
_OF_ELEMENTS_ONLY = frozenset({dict, set, frozenset, list, tuple, collections.deque})
_EMPTY = types.CellType()
_NO_REFERENCES = 2  # marshal's version: later ones write what depends on who else holds a value
_PASSED_BY = (type, types.ModuleType, types.CodeType, logging.Logger, logging.Handler)


class Digest(NamedTuple):
    """Two whose numbers differ tell of a change.

    ``hidden``: something is there whose changes nobody can see; ``large``: containers that were read in part.
    """

    number: int
    hidden: bool
    large: list[Any]


class Change:
    """Looks at objects after their tasks until they have changed: after the first, and as often as it costs little.

    Of large containers a digest reads a part only; so a look also compares what lies there under the numbers of the
    task's samples, which is where datasets keep what belongs to one sample.

    Args:
        things: what to look at, as it is before the first task.
        kept: gives what belongs to them and lies elsewhere.
        besides: true for objects that do not count.
        around: read what surrounds them: the first before the first task, the others after it for the first time.
        clock: seconds.
    """

    def __init__(
        self,
        things: Any,
        kept: Callable[[], Any] = tuple,
        besides: Callable[[Any], bool] | None = None,
        around: Sequence[Callable[[], Any]] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._things = things
        self._around = around
        self._surroundings = [read() for read in around[:1]]
        self._kept = kept
        self._besides = besides
        self._clock = clock
        began = clock()
        self._before = self._digest()
        self._cheap = clock() - began < _CHEAP
        self._tasks = 0
        self._next = 1
        self._due = 0.0
        self._samples: Any = None
        self._at_samples: int | None = None
        self._seen = False
        self.looked = False  # at all there is, after the task that was counted last

    @property
    def hidden(self) -> bool:
        """True if something is there that may change and does not show it."""
        return self._before.hidden

    def begin(self, samples: Any) -> None:
        """A task is about to begin; ``samples`` are the numbers of its samples, as far as it has such."""
        if self._before.large and not self._seen and self._is_time(self._tasks + 1):
            self._samples = samples
            self._at_samples = self._of_samples()

    def seen(self) -> bool:
        """Count a task. True if a change is seen after it."""
        self._tasks += 1
        self.looked = False
        if not self._is_time(self._tasks):
            return False
        began = self._clock()
        if self._tasks >= self._next:
            self._next = 2 * self._tasks
        self.looked = len(self._surroundings) == len(self._around)
        self._seen = self.there() or (self._at_samples is not None and self._of_samples() != self._at_samples)
        self._at_samples = None
        now = self._clock()
        self._due = now + (now - began) / _SHARE
        return self._seen

    def there(self) -> bool:
        """True if there is a change now."""
        now = [read() for read in self._around]
        if len(self._surroundings) < len(now):
            self._surroundings += now[len(self._surroundings) :]
        return now != self._surroundings or self._digest().number != self._before.number

    def _is_time(self, task: int) -> bool:
        """Known before a task and after it: then by the clock's last answer."""
        return (task >= self._next and (self._cheap or task <= _AT_FIRST)) or self._clock() >= self._due

    def _digest(self) -> Digest:
        return digest((self._things, self._kept()), self._besides)

    def _of_samples(self) -> int:
        """What large containers hold for the task's samples."""
        if not isinstance(self._samples, (list, tuple)):
            return 0
        walk = _Walk(self._besides)
        return hash(tuple(walk.number(_item(large, at)) for large in self._before.large for at in self._samples))


_ordered_items = collections.OrderedDict.items  # a dict's own order is another one, once something was moved


def _item(container: Any, at: Any) -> Any:
    try:
        return dict.get(container, at) if isinstance(container, dict) else container[at]
    except (IndexError, TypeError, ValueError):
        return None


def digest(thing: Any, besides: Callable[[Any], bool] | None = None) -> Digest:
    """Of what ``thing`` holds, apart from objects for which ``besides`` is true."""
    walk = _Walk(besides)
    return Digest(walk.number(thing), walk.hidden, walk.large)


_moved = itertools.count(1)


class _Walk:
    def __init__(self, besides: Callable[[Any], bool] | None) -> None:
        self.hidden = False
        self.large: list[Any] = []
        self._besides = besides
        self._left = _VALUES
        self._plain_left = _PLAIN_BYTES
        self._budget = Budget()
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used again

    def number(self, thing: Any) -> int:
        """Equal for what is the same as it was."""
        kind = type(thing)
        if kind in _PLAIN:
            return hash((kind.__name__, repr(thing)))
        if kind in (str, bytes):
            return hash(thing)
        self._left -= 1
        if self._besides is not None and self._besides(thing):
            return self.number(None)
        if self._left < 0 or isinstance(thing, _PASSED_BY):
            return hash(kind)
        if id(thing) in self._met:
            return self._met[id(thing)]
        self._met[id(thing)] = len(self._met)
        self._kept.append(thing)
        try:
            return hash((kind, self._content(thing)))
        except Exception:  # it does not want to be looked at
            self.hidden = True
            return hash(kind)

    def _content(self, thing: Any) -> Any:
        found = content_of(thing, self._budget)
        if self._budget.cut:
            self._budget.cut = False
            self.large.append(thing)
        if found is MOVES:
            return next(_moved)
        if type(found) is Parts:
            return tuple(map(self.number, found))
        if found is HIDDEN:
            self.hidden = True
        elif found is not None:
            return found, *(self.number(part) for part in added(thing) if self._counts(part))
        inside: list[Any] = [self.number(part) for part in _attributes(thing) if self._counts(part)]
        if isinstance(thing, dict):
            items = _ordered_items(thing) if isinstance(thing, collections.OrderedDict) else dict.items(thing)
            inside += self._elements(thing, items, lambda: reversed(items))
        elif isinstance(thing, (set, frozenset)):
            inside += [len(thing), sum(self.number(part) for part in itertools.islice(thing, _OF_EACH))]
        elif isinstance(thing, (list, tuple, collections.deque)):
            inside += self._elements(thing, thing, lambda: reversed(thing))
        elif isinstance(thing, numpy.ndarray):  # of objects
            inside += self._elements(thing, thing.flat, lambda: reversed(thing.reshape(-1)))
        return tuple(inside)

    def _elements(self, thing: Any, elements: Iterable[Any], backwards: Callable[[], Iterable[Any]]) -> list[int]:
        """Plain ones (numbers, text, containers of them) as many as may be; of others those at the ends."""
        count = thing.size if isinstance(thing, numpy.ndarray) else len(thing)
        waiting, read, counted = iter(elements), 0, 0
        found: list[int] = []
        while part := list(itertools.islice(waiting, _OF_EACH)):
            read += len(part)
            part = [element for element in part if self._element_counts(thing, element)]
            counted += len(part)
            content = self._marshalled(part) if part else b""
            if content is None:
                found += map(self.number, part)
                break
            if content:
                found.append(hash(content))
        if read < count:
            self.large.append(thing)
            found += map(self.number, itertools.islice(backwards(), min(count - read, _OF_EACH)))
        return [count - read + counted, *found]

    def _element_counts(self, thing: Any, element: Any) -> bool:
        return self._besides is None or self._counts(element[1] if isinstance(thing, dict) else element)

    def _marshalled(self, part: list[Any]) -> bytes | None:
        """None where not all of it is plain, or where that is too much."""
        if self._plain_left <= 0 or not _is_plain(part, filled=self._besides is not None):
            return None
        content = marshal.dumps(part, _NO_REFERENCES)
        self._plain_left -= len(content)
        return content

    def _counts(self, part: Any) -> bool:
        """What is to be left out may as well not be there yet: a generator is made with the first sample, as a rule."""
        return self._besides is None or not (part is None or self._besides(part))


def _is_plain(part: list[Any], filled: bool) -> bool:
    """True where values, those in containers included, are numbers, text and nothing: not what subclasses these.

    ``filled``: and where no place is empty, into which something else may come.
    """
    for _ in range(_DEEPEST):
        kinds = set(map(type, part))
        if kinds <= _MARSHALLED:
            return not (filled and type(None) in kinds)
        if not kinds <= _MARSHALLED | _NESTED or (filled and (type(None) in kinds or not all(map(_is_filled, part)))):
            return False
        part = [inner for value in part if type(value) in _NESTED for inner in _inside(value)]
        if len(part) > _MOST_NESTED:
            return False
    return False


def _is_filled(value: Any) -> bool:
    return type(value) not in _NESTED or bool(value)


def _inside(value: Any) -> Iterable[Any]:
    return itertools.chain(value, value.values()) if type(value) is dict else value


def _attributes(thing: Any) -> list[Any]:
    """What hangs on an object besides its elements; found without running code of the user's."""
    parts: list[Any] = []
    if type(thing) in _OF_ELEMENTS_ONLY:
        return parts
    if isinstance(thing, types.FunctionType):
        cells = [cell for cell in thing.__closure__ or () if cell != _EMPTY]
        own = thing.__defaults__, thing.__kwdefaults__, thing.__dict__, hash(thing.__code__)
        return [*(cell.cell_contents for cell in cells), *own]
    if isinstance(thing, (types.MethodType, types.BuiltinMethodType)):
        return [thing.__self__]
    if isinstance(thing, functools._lru_cache_wrapper):
        parts.append(repr(thing.cache_info()))
    if isinstance(thing, functools.partial):
        parts += [thing.func, thing.args, thing.keywords]
    if _has_slots(type(thing)):
        for kind in type(thing).__mro__:
            members = [value for value in vars(kind).values() if isinstance(value, types.MemberDescriptorType)]
            parts += [value for member in members if (value := slot(member, thing)) is not None]
    try:
        parts.append(object.__getattribute__(thing, "__dict__"))
    except AttributeError:
        pass
    if not is_pythons(type(thing)) and not isinstance(thing, _OWN_ELEMENTS):
        parts += [part for part in referents(thing) if part is not type(thing)]
    return parts


def _has_slots(kind: type) -> bool:
    found = _found_slots.get(kind)
    if found is None:
        values = (value for base in kind.__mro__ for value in vars(base).values())
        found = _found_slots[kind] = any(isinstance(value, types.MemberDescriptorType) for value in values)
    return found


_found_slots: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
