"""Which modules a fork server should import: the installed ones that the dataset and its functions need.

The user's own modules are left to each process. They are cheap once what they import is there; they may do things when
they are imported that must happen in each process (a generator without a seed, a temporary folder); and an edit of
them is never stale that way. ``Policy(preload=...)`` adds to the list.
"""

from __future__ import annotations

import sys
from types import MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from safeloader.runtime.user_code import is_users

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["homes", "installed"]


def installed(names: Iterable[str]) -> tuple[str, ...]:
    """Installed modules among these, and those that the user's modules among these have imported."""
    found: set[str] = set()
    queue, known = list(names), set(names)
    while queue:
        module = sys.modules.get(queue.pop())
        path = getattr(module, "__file__", None)
        if module is None or path is None or module.__name__.partition(".")[0] == "safeloader":
            continue  # a process has what it needs of this package
        if not is_users(path):
            found.add(module.__name__)
            continue
        more = _imported_by(module) - known
        known |= more
        queue += more
    return tuple(sorted(found))


def _imported_by(module: ModuleType) -> set[str]:
    """The modules whose names, classes and functions a module has in its own names."""
    return {name for value in list(vars(module).values()) if (name := _home(value))}


def _home(value: Any) -> str:
    """The module that a value is, or in which it or its class is defined.

    No code of the value's own runs for that: some objects warn whoever touches them, others import.
    """
    kind = type(value)
    if kind is MethodType:
        return _home(value.__func__)
    if issubclass(kind, ModuleType):
        name = object.__getattribute__(value, "__dict__").get("__name__")
    elif issubclass(kind, type):
        name = type.__getattribute__(value, "__module__")
    else:
        try:
            name = object.__getattribute__(value, "__module__")
        except AttributeError:
            name = type.__getattribute__(kind, "__module__")
    return name if isinstance(name, str) and name in sys.modules and name != "__main__" else ""


def homes(*objects: Any) -> tuple[str, ...]:
    """The modules in which these objects, or their classes, are defined, without the main script."""
    return tuple(sorted({name for thing in objects if (name := _home(thing) or _home(type(thing)))}))
