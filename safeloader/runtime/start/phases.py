"""How far the start of a process is: a byte in a file of the trainer, which the process writes.

A process has no page before it belongs to a loader, and most of a start comes before that.
"""

from __future__ import annotations

import itertools
import os

from safeloader.runtime import system

__all__ = [
    "ASKED",
    "IMPORTS",
    "MODULES",
    "PLACE",
    "READS",
    "READY",
    "SERVES",
    "TURN",
    "WORDS",
    "PhaseMark",
    "read",
    "row",
]

ASKED, TURN, IMPORTS, MODULES, READY, SERVES, READS, PLACE = range(8)

WORDS = {
    ASKED: "its interpreter has not come to its first line",
    TURN: "it waits for its turn to import",
    IMPORTS: "it imports torch and numpy",
    MODULES: "it imports the modules of the dataset",
    READY: "it says that it is ready",
    SERVES: "it serves requests",
    READS: "it reads the dataset",
    PLACE: "a place for it on another host is looked for",
}

_file = -1
_count = itertools.count()


def row() -> tuple[int, int]:
    """The trainer's file, which a process inherits, and the place of the next start in it."""
    global _file  # noqa: PLW0603 - one per trainer, for its whole life
    if _file < 0:
        _file = system.memory_file("starts")
    return _file, next(_count)


def read(row: int) -> int:
    """How far that start is."""
    found = os.pread(_file, 1, row) if _file >= 0 else b""
    return found[0] if found else ASKED


class PhaseMark:
    """The process's side.

    Args:
        file: inherited.
        row: its place.
    """

    def __init__(self, file: int, row: int) -> None:
        self.file = file
        self._row = row

    def __call__(self, phase: int) -> None:
        """It is this far."""
        os.pwrite(self.file, bytes([phase]), self._row)

    def close(self) -> None:
        """There is nothing more to tell."""
        os.close(self.file)


def _forget() -> None:
    """A fork of the trainer has processes of its own."""
    global _file  # noqa: PLW0603
    if _file >= 0:
        os.close(_file)
        _file = -1


os.register_at_fork(after_in_child=_forget)
