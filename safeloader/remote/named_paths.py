"""Paths that a dataset names: they are looked for on another host before its first sample is.

A path leads to the same data there, or nowhere. Whether the dataset needs it there nobody knows, so what is missing is
a line of the log; the dataset's own error says the rest.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

__all__ = ["missing", "named_paths"]

_MOST_LOOKS = 500  # objects; a list of a million files is looked at where it begins
_MOST_OF_ONE = 8
_MOST_PATHS = 32
_LONGEST = 1024


def named_paths(dataset: Any) -> tuple[str, ...]:
    """Texts and paths among its attributes, and theirs, that exist on this host."""
    found: dict[str, None] = {}
    waiting, seen = deque([dataset]), {id(dataset)}
    for _ in range(_MOST_LOOKS):
        if not waiting or len(found) == _MOST_PATHS:
            break
        one = waiting.popleft()
        path = _path(one)
        if path:
            found[path] = None
            continue
        for part in _parts(one):
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    return tuple(found)


def missing(paths: tuple[str, ...], directory: str) -> list[str]:
    """Which of them are not on this host.

    Args:
        paths: another host's.
        directory: what a relative one is looked for in.
    """
    return [path for path in paths if not os.path.lexists(os.path.join(directory, path))]


def _path(one: Any) -> str:
    if not isinstance(one, (str, os.PathLike)):
        return ""
    try:
        name = os.fspath(one)
        known = isinstance(name, str) and os.sep in name and len(name) < _LONGEST and os.path.exists(name)
        return str(name) if known else ""
    except Exception:  # the user's class
        return ""


def _parts(one: Any) -> list[Any]:
    if isinstance(one, (str, bytes, int, float, type)):
        return []
    if type(one) is dict:
        return [*_first(one), *_first(one.values())]
    if type(one) in (list, tuple, set, frozenset):
        return _first(one)
    held = getattr(one, "__dict__", None)
    return list(held.values()) if type(held) is dict else []


def _first(many: Any) -> list[Any]:
    return [part for part, _ in zip(many, range(_MOST_OF_ONE), strict=False)]
