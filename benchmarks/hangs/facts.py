"""Facts: what a program under test notes while it runs, one JSON line each, so that a killed program leaves them all.

Every line is one ``write`` to a file opened for appending, which Linux keeps whole among processes. Times
are seconds of the monotonic clock, which all processes of one machine share.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

DIRECTORY = "HANGS_DIRECTORY"
"""Environment: the run's own directory. Its value is unique, so it also marks every process of the run."""
LOADER = "HANGS_LOADER"
"""Environment: the adapter's name."""
QUIET = "HANGS_QUIET"
"""Environment: ``1`` for a reference run, in which no fault fires."""


class Fact(NamedTuple):
    """One noted fact: when (seconds, monotonic), by which process, what, and details."""

    time: float
    pid: int
    kind: str
    details: dict[str, Any]


def directory() -> Path:
    """The directory of this run."""
    return Path(os.environ[DIRECTORY])


def quiet() -> bool:
    """Whether this is a reference run, in which no fault may fire."""
    return os.environ.get(QUIET) == "1"


def path_in(directory: Path) -> Path:
    """Where the facts of the run in ``directory`` are kept."""
    return directory / "facts.jsonl"


def note(kind: str, **details: Any) -> None:
    """Append one fact; callable from the trainer and from any of its processes."""
    line = json.dumps({"t": time.monotonic(), "pid": os.getpid(), "fact": kind, **details}) + "\n"
    descriptor = os.open(path_in(directory()), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(directory: Path) -> list[Fact]:
    """All whole facts of a run, in the order they were noted; a torn last line is left out."""
    try:
        lines = path_in(directory).read_text().splitlines()
    except FileNotFoundError:
        return []
    return list(_parsed(lines))


def _parsed(lines: Iterable[str]) -> Iterable[Fact]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        yield Fact(row.pop("t"), row.pop("pid"), row.pop("fact"), row)
