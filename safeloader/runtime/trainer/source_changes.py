"""Source files that changed since a process was first started: one that is started later runs today's code."""

from __future__ import annotations

import sys

from safeloader.runtime.start.fork_safety import stamp
from safeloader.runtime.user_code import is_users

__all__ = ["changed", "remember"]

_seen: dict[str, tuple[int, int] | None] = {}
_others: set[str] = set()  # files that are not the user's: most, and each loader asks


def remember() -> None:
    """Keep in mind how the user's source files look now; those that are known already stay as they were."""
    for path in _sources() - _seen.keys() - _others:
        if is_users(path):
            _seen[path] = stamp(path)
        else:
            _others.add(path)


def changed() -> list[str]:
    """Files of modules that are there and that differ from when they were first seen, by time of change or size."""
    return sorted(path for path in _sources() & _seen.keys() if stamp(path) != _seen[path])


def _sources() -> set[str]:
    modules = [module for name, module in list(sys.modules.items()) if name != "__main__"]
    return {path for module in modules if (path := getattr(module, "__file__", None))}
