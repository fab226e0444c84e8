"""Can a fresh interpreter import a module by its name, and would it get the same one?"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Modules that are not what their name says in any other process.
_ONLY_HERE = frozenset({"__main__", "__mp_main__"})


# Answers so far: the module that was meant, the search path at that time, and the answer.
_known: dict[str, tuple[object, list[str], bool]] = {}

_asked: ContextVar[set[str] | None] = ContextVar("_asked", default=None)  # of the innermost `asking` of this thread


@contextmanager
def asking() -> Iterator[set[str]]:
    """Collect the names that this thread asks for meanwhile."""
    names: set[str] = set()
    token = _asked.set(names)
    try:
        yield names
    finally:
        _asked.reset(token)


def importable(name: str) -> bool:
    """Return True where a reader with the same ``sys.path`` can import the module `name`."""
    if name in _ONLY_HERE:
        return False
    names = _asked.get()
    if names is not None:
        names.add(name)
    module = sys.modules.get(name)
    known = _known.get(name)
    if known is None or known[0] is not module or known[1] != sys.path:
        known = _known[name] = module, list(sys.path), _look(name)
    return known[2]


def importable_as(thing: object, module_name: str | None, name: str) -> bool:
    """Return True where a reader can get `thing` as the global `name` (with dots) of an importable module."""
    found: object = sys.modules.get(module_name or "")
    if not module_name or found is None or not importable(module_name):
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is thing


def _look(name: str) -> bool:
    parent, _, _ = name.rpartition(".")
    if not parent:
        return _found(name, None)
    if not importable(parent):
        return False
    module = sys.modules.get(name)
    # A package may lend a module this name when it is imported (collections.abc, from Python 3.13 on).
    own_name = getattr(getattr(module, "__spec__", None), "name", name)
    if own_name != name:
        return importable(own_name)
    # A package may make such a module when it is imported itself (six.moves, torch.ops): then it has no
    # file.
    path = getattr(sys.modules.get(parent), "__path__", None)
    return path is None or getattr(module, "__file__", None) is None or _found(name, path)


def _found(name: str, path: Any) -> bool:
    """Ask the finders themselves: `importlib.util.find_spec` only tells what `sys.modules` says."""
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        try:
            spec = find_spec(name, path) if find_spec else None
        except Exception:  # a finder of a third party, made for other questions
            continue
        if spec is not None:
            return _same_file(spec.origin, getattr(sys.modules.get(name), "__file__", None))
    return False


def _same_file(found: str | None, loaded: str | None) -> bool:
    """Tell apart a second module of the same name, such as another ``utils.py`` that was loaded by path."""
    if not found or not loaded or found == loaded:
        return True
    try:
        return os.path.samefile(found, loaded)
    except OSError:  # not files of this system, such as in a zip archive: nothing to compare
        return True
