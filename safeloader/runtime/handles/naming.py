"""Where in a dataset an open thing is held, for people: ``dataset.index.file``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["named"]

_INSIDE = re.compile(r"<\d+>")  # from here on a path leads through an object that has no attributes


def named(
    handles: Sequence[tuple[Any, str]], holders: Mapping[int, Any], roots: Mapping[str, object]
) -> list[tuple[str, str]]:
    """The attribute path of each thing, "" where it lies deeper than anybody looks, and its words.

    Args:
        handles: The things and words.
        holders: By the thing's id, what it is a part of: that is what the dataset's author knows of.
        roots: What the dataset and the functions are called.
    """
    from safeloader.runtime.child.reach import walk

    paths: dict[int, str] = {}
    lines = [_line(obj, holders) for obj, _ in handles]
    wanted = {id(obj) for line in lines for obj in line}
    for reached in walk(roots.items()):
        if id(reached.value) in wanted:
            paths.setdefault(id(reached.value), _INSIDE.split(reached.path)[0])
            if len(paths) == len(wanted):
                break
    found = (next((paths[id(obj)] for obj in line if id(obj) in paths), "") for line in lines)
    return [(path, words) for path, (_, words) in zip(found, handles, strict=True)]


def _line(obj: Any, holders: Mapping[int, Any]) -> list[Any]:
    """What holds a thing, from the outermost to itself."""
    line = [obj]
    while id(line[0]) in holders:
        line.insert(0, holders[id(line[0])])
    return line
