"""The random generator objects that a worker's dataset holds, beside the process's three: found, captured, put back.

::

    in the stream (`carry`)   those that the dataset had when it was sent: "#0", "#1", ... in the stream's order
    within reach (`reach`)    those made later, in worker_init_fn, __iter__ or the first sample: "dataset.transform.rng"
    in classes and modules    "global photos.Augment.rng": one for all workers of a process, so exchanged with them

Those in the stream are the same in each process that reads it. The others are looked for when the worker is set up,
whenever the near part of the dataset has another shape than before (a new attribute, one that is None no more), and
at growing distances besides.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.runtime.child.generator_objects import (
    WatchedGenerator,
    core_of,
    is_generator,
    is_global,
    kind_of,
    make,
    put_state,
    state_of,
)
from safeloader.runtime.child.reach import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["OwnGenerators"]

_FRUITLESS = 16  # looks in a row that found nothing: then the shape means nothing
_NEAR = 64  # containers and objects whose shape is looked at after each task


class _Found(NamedTuple):
    watched: WatchedGenerator
    shared: bool
    wrapped: bool  # in numpy's Generator
    late: bool  # made after the worker was set up


class OwnGenerators:
    """Those of one worker.

    Args:
        roots: where to look, by name: the dataset, the functions.
        in_stream: generators that were read from the stream, in its order.
        without: objects that are not looked into.
    """

    def __init__(
        self, roots: Iterable[tuple[str, Any]], in_stream: Iterable[Any] = (), without: Iterable[Any] = ()
    ) -> None:
        self._roots = list(roots)
        self._without = list(without)
        self._found: dict[str, _Found] = {}
        self._ids: set[int] = set()
        self._outside: dict[str, dict[str, Any]] = {}  # shared ones as they are while this worker is out
        self._shapes: list[tuple[Any, list[type]]] = []
        self._places: list[tuple[Any, Any, Any, str]] = []  # items, key, the generator there, its path
        self._fruitless = 0
        self._settled = self._inside = False
        self._tasks = self._count = 0
        self._next = 1
        for number, generator in enumerate(in_stream):
            self._add(f"#{number}", generator, shared=False)
        self.look()

    def __bool__(self) -> bool:
        return bool(self._found)

    # ------------------------------------------------------------ finding

    def look(self, shared: bool = True) -> None:
        """Look for those that are not known yet."""
        self._shapes.clear()
        self._places.clear()
        for path, value, is_shared in walk(self._roots, self._without, shared):
            if is_generator(value):
                self._add(path, value, is_shared)
            elif len(self._shapes) < _NEAR and not is_shared and (items := _items(value)) is not None:
                self._shapes.append((items, _shape(items)))
                self._note_places(path, value, items)

    def _note_places(self, path: str, holder: Any, items: Any) -> None:
        pairs = items.items() if type(items) is dict else enumerate(items)
        for key, value in pairs:
            if is_generator(value):
                step = f"[{key!r}]" if items is holder else f".{key}"
                self._places.append((items, key, value, path + step))

    def settle(self) -> None:
        """The worker is set up: those that are found from now on were made by loading."""
        self.look()
        self._settled = True

    def _add(self, path: str, generator: Any, shared: bool) -> None:
        core = core_of(generator)
        if id(core) in self._ids or is_global(core):
            return
        try:
            found = _Found(WatchedGenerator(core), shared, generator is not core, self._settled)
        except Exception:  # a subclass that cannot tell its state
            return
        if hasattr(core, "set_state") and hasattr(core, "_bit_generator"):
            self._ids.add(id(core._bit_generator))  # a RandomState's, which it tells itself
        gone = self._found.get(path)
        if gone is not None:
            self._ids.discard(id(gone.watched.core))
        self._ids.add(id(core))
        self._found[path] = found
        self._count += 1
        if shared:
            self._outside[path] = state_of(core)

    def look_again(self) -> None:
        """Look again if it is time to, or if something near has another shape."""
        self._tasks += 1
        if self._tasks >= self._next:
            self._next *= 2
            self.look()
        elif self._fruitless < _FRUITLESS and self._is_reshaped():
            known = len(self._ids)
            self.look(shared=False)
            self._fruitless = 0 if len(self._ids) > known else self._fruitless + 1
        for number, (items, key, generator, path) in enumerate(self._places):
            try:
                now = items[key]
            except LookupError:
                continue
            if now is not generator and is_generator(now):  # another one took its place
                self._places[number] = items, key, now, path
                self._add(path, now, shared=False)

    def _is_reshaped(self) -> bool:
        return any([_shape(items) != shape for items, shape in self._shapes])  # noqa: C419 - cheaper, for each batch

    # ------------------------------------------------------------ capturing and putting back

    def moved(self) -> bool:
        """True if one of them moved, or appeared, since this was asked last."""
        before = self._count
        self.look_again()
        moved = [found.watched.moved() for found in self._found.values()]  # each is to be asked
        return any(moved) or self._count != before

    def capture(self, sample: Any = None) -> dict[str, Any] | None:
        """Their states now, and a sample that makes those again that loading makes. None if there are none."""
        if not self._found:
            return None
        states = {
            path: {"kind": kind_of(f.watched.core), "wrapped": f.wrapped, "state": state_of(f.watched.core)}
            for path, f in self._found.items()
        }
        late = any(found.late for found in self._found.values())
        return {"states": states, "sample": sample if late and _is_plain(sample) else None}

    def restore(self, own: dict[str, Any] | None, load: Callable[[Any], None] | None = None) -> list[str]:
        """Put states back.

        Args:
            own: what `capture` told.
            load: loads a sample, so that a dataset makes what it makes then.

        Returns:
            The paths of those that could not be found or made.
        """
        if own is None:
            return []
        if missing := self._put(own["states"]):
            self.look()
            missing = self._put(own["states"])
        if missing and own["sample"] is not None and load is not None:
            load(own["sample"])
            self.look()
            missing = self._put(own["states"])
        missing = [path for path in missing if not self._place(path, own["states"][path])]
        for found in self._found.values():
            found.watched.mark()
        return missing

    def made_since(self, own: dict[str, Any] | None) -> list[str]:
        """The paths of those that loading has made since `capture` told ``own``."""
        then = {} if own is None else own["states"]
        return [path for path, found in self._found.items() if found.late and not found.shared and path not in then]

    def known(self, states: dict[str, Any]) -> dict[str, Any]:
        """Of these states, those of generators that are here."""
        return {path: entry for path, entry in states.items() if path in self._found}

    def _put(self, states: dict[str, Any]) -> list[str]:
        """Returns those that there is nothing for."""
        missing = []
        for path, entry in states.items():
            found = self._found.get(path)
            if found is None or kind_of(found.watched.core) != entry["kind"]:
                missing.append(path)
            else:
                put_state(found.watched.core, entry["state"])
        return missing

    def _place(self, path: str, entry: dict[str, Any]) -> bool:
        """Make one where the dataset has none yet, or an older one, as it would have done by now."""
        parents = [
            seen for seen in walk(self._roots, self._without) if path.startswith(seen.path) and path != seen.path
        ]
        parent = max(parents, key=lambda seen: len(seen.path), default=None)
        if parent is None or (not entry["kind"].isidentifier() and not entry["kind"].startswith("torch ")):
            return False
        step, made = path[len(parent.path) :], None
        try:
            made = make(entry["kind"], entry["wrapped"])
            put_state(core_of(made), entry["state"])
            _set(parent.value, step, made)
        except Exception:
            return False
        self._add(path, made, parent.shared)
        return True

    # ------------------------------------------------------------ those that all workers of a process share

    def enter(self, own: dict[str, Any] | None) -> None:
        """This worker works now: what its process shares is as it left it."""
        if self._inside:
            return
        self._inside = True
        shared = {path: found for path, found in self._found.items() if found.shared}
        if shared:
            self._outside = {path: state_of(found.watched.core) for path, found in shared.items()}
            mine = {} if own is None else own["states"]
            self._put({path: entry for path, entry in mine.items() if path in shared})

    def leave(self) -> None:
        """Another one works: what the process shares is as it was before."""
        self._inside = False
        for path, state in self._outside.items():
            put_state(self._found[path].watched.core, state)


def _is_plain(sample: Any) -> bool:
    return type(sample) in (int, str) or (type(sample) is tuple and all(map(_is_plain, sample)))


def _items(value: Any) -> Any:
    """What a change of shape would show in: the attributes, or the items of a small container; else None."""
    if type(value) in (dict, list):
        return value if len(value) <= _NEAR else None
    attributes = getattr(value, "__dict__", None)
    return attributes if type(attributes) is dict and len(attributes) <= _NEAR else None


def _shape(items: Any) -> list[type]:
    """Which kinds of objects there are."""
    values = items.values() if type(items) is dict else items
    return [*map(type, values)]


def _set(parent: Any, step: str, made: Any) -> None:
    """Put it into an attribute or a container, unless something else is there."""
    if step.startswith("["):
        key = ast.literal_eval(step[1:-1])
        there = parent.get(key) if isinstance(parent, dict) else parent[key]
        if there is None or is_generator(there):
            parent[key] = made
            return
    elif step[1:].isidentifier():
        there = getattr(parent, step[1:], None)
        if there is None or is_generator(there):
            setattr(parent, step[1:], made)
            return
    raise LookupError(step)
