"""Source files that changed since a process was first started: one that is started later runs today's code."""

from __future__ import annotations

import os
import site
import sys
import sysconfig

from safeloader.runtime.start.fork_safety import stamp

__all__ = ["changed", "is_foreign", "is_users", "remember"]

_seen: dict[str, tuple[int, int] | None] = {}


def remember() -> None:
    """Keep in mind how the user's source files look now; those that are known already stay as they were."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and path not in _seen and getattr(module, "__name__", "") != "__main__" and is_users(path):
            _seen[path] = stamp(path)


def changed() -> list[str]:
    """Files that differ from when they were first seen, by time of change or size."""
    return sorted(path for path, seen in _seen.items() if stamp(path) != seen)


def is_users(path: str) -> bool:
    """True for a source file that belongs neither to Python nor to an installed package, nor to safeloader."""
    return path.endswith(".py") and not is_foreign(path)


def is_foreign(path: str) -> bool:
    """True for what belongs to Python, to an installed package or to safeloader."""
    return path.startswith(_FOREIGN)


def _foreign() -> tuple[str, ...]:
    places = {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    places.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return ("<frozen ", *(os.path.join(place, "") for place in (*places, own)))


_FOREIGN = _foreign()
