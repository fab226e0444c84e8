"""The file of events: JSON lines, appended, for programs. docs/events.md is its description.

A line is written whole by one call, so several loaders and ranks of one machine can share a file. The file is
opened for each line: events are rare, no descriptor stays open, and a rotated file is not written on. A file
that cannot be written never hurts training: that is told once, and the file given up.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from safeloader import codes
from safeloader.observe.format import inline, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.observe.events import Happening

__all__ = ["VERSION", "EventFile", "as_record"]

VERSION = 1
"""Version of the lines. New keys and new events do not change it; a changed or removed one does."""


def as_record(event: Happening) -> dict[str, Any]:
    """A happening as JSON can hold it: version, time, loader, event, trainer, rank, then its own fields."""
    record: dict[str, Any] = {
        "v": VERSION,
        "t": round(event.time, 3),
        "loader": event.loader,
        "event": event.event,
        "trainer": os.getpid(),
    }
    rank = os.environ.get("RANK", "")
    if rank.isdecimal():
        record["rank"] = int(rank)
    for field in fields(event):
        if field.name not in ("time", "loader"):
            record[field.name] = plain(getattr(event, field.name))
    return record


class EventFile:
    """Appends one line of JSON per happening to a file.

    Args:
        path: The file; ``~`` is the home directory. Its directory must exist.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self._given_up = False

    def write(self, event: Happening) -> None:
        """Append one event. A failure of the file is logged, once, and never raised."""
        self.write_all([event])

    def write_all(self, events: Sequence[Happening]) -> None:
        """Append several events by one call."""
        lines = [json.dumps(as_record(event), allow_nan=False, separators=(",", ":")) + "\n" for event in events]
        self.append(events[0].loader, lines)

    def append(self, loader: str, lines: Sequence[str]) -> None:
        """Append lines of a loader's events by one call."""
        if self._given_up:
            return
        try:
            self._append("".join(lines).encode())
        except OSError as error:
            self._given_up = True
            codes.log_warning(
                "SL112",
                "%s: cannot write events to %s (%s); training goes on without them",
                inline(loader, 60),
                self.path,
                error.strerror or error,
            )

    def _append(self, line: bytes) -> None:
        # Not blocking: a named pipe that nobody reads must be an error, not a wait.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self.path, flags, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")
