"""The file of events, read as far as it can be read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.observe.event_file import VERSION
from safeloader.observe.format import many

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["EventStory", "read"]


class EventStory(NamedTuple):
    """Events in the order of time, and what is to be said about the file."""

    events: list[dict[str, Any]]
    notes: list[str]


def read(lines: Iterable[bytes]) -> EventStory:
    """Parse the lines of a file of events; what is broken is left out, and noted."""
    events: list[dict[str, Any]] = []
    broken: list[int] = []
    newer = 0
    number = 0
    for number, line in enumerate(lines, 1):
        event = _parsed(line)
        if event is None:
            if line.strip():
                broken.append(number)
        elif event["v"] > VERSION:
            newer += 1
        else:
            events.append(event)
    notes = []
    if broken == [number]:
        notes.append(f"the file breaks off in line {number}: what comes before it is shown")
    elif broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        notes.append(f"{many(len(broken), 'line')} cannot be read and left out: {shown}")
    if newer:
        notes.append(f"{many(newer, 'line')} of a newer safeloader left out")
    if events and not any(event["event"] == "batch" for event in events):
        notes.append("no batch is in the file: run with SAFELOADER_TRACE=1 for lanes of loading, waiting and computing")
    return EventStory(sorted(events, key=lambda event: event["t"]), notes)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    if not isinstance(event.get("t"), (int, float)) or not isinstance(event.get("v"), int):
        return None
    return event
