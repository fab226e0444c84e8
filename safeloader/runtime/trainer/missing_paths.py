"""What a process on another host did not find, although it is here: a path leads to the same data there, or nowhere."""

from __future__ import annotations

import os
import re

__all__ = ["on_host"]

_ABSENT = re.compile(r"no such file|not found|not exist|cannot find|can't find|errno 2\b", re.IGNORECASE)
_PATH = re.compile(r"""'([^'\n]+)'|"([^"\n]+)"|((?:\.{0,2}/)[^\s'",;:()\[\]]+)""")
_SHOWN = 3


def on_host(host: str, error: str) -> str:
    """Where an error was raised, and which paths that it names exist here only: ``on node-7; '/data' exists here ...``.

    Args:
        host: the other one.
        error: its text, with or without a traceback.
    """
    found = dict.fromkeys(
        path
        for line in error.splitlines()
        if not line.startswith(" ") and _ABSENT.search(line)  # lines of a traceback's frames name files, too
        for path in map("".join, _PATH.findall(line))
        if "/" in path and _exists(path)
    )
    if not found:
        return f"on {host}"
    names = ", ".join(map(repr, list(found)[:_SHOWN]))
    verb = "exists" if len(found) == 1 else "exist"
    return f"on {host}; {names} {verb} on this host and not on that one"


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False
