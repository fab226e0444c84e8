"""The file of events, read as far as it can be read: what is broken or foreign is left out, and noted."""

from __future__ import annotations

import json
import math
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.observe.event_file import VERSION
from safeloader.observe.format import many
from safeloader.observe.schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

__all__ = ["EventStory", "lines_of", "read"]

_LONGEST = 1 << 24  # bytes of a line; a foreign file may be one line of gigabytes
_LATEST = 1e11  # seconds since 1970 that can be a date
_YEAR = 366 * 86400.0
_NEEDED = {"batch": ("epoch", "batch", "asked", "got"), "start": ("process", "seconds"),
           "restart": ("process", "seconds"), "fault": ("cause",), "stall_ended": ("seconds",)}  # fmt: skip
_LARGEST = 1e18
_TIMES = ("asked", "taken", "collated", "finished", "got")


class EventStory(NamedTuple):
    """Events in the order of time, and what is to be said about the file."""

    events: list[dict[str, Any]]
    notes: list[str]


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; one that is longer than any event comes in pieces."""
    while line := file.readline(_LONGEST):
        yield line


def read(lines: Iterable[bytes]) -> EventStory:
    """Parse the lines of a file of events; what is broken is left out, and noted."""
    events: list[tuple[int, dict[str, Any]]] = []
    broken: dict[int, str] = {}
    newer = number = 0
    for number, line in enumerate(lines, 1):
        event = _parsed(line)
        if event is None:
            if line.strip():
                broken[number] = "is no event"
        elif event["v"] > VERSION:
            newer += 1
        elif wrong := _wrong(event):
            broken[number] = wrong
        else:
            events.append((number, event))
    middle = median([event["t"] for _, event in events]) if events else 0.0
    broken |= {n: "is of another time" for n, event in events if abs(event["t"] - middle) > _YEAR}
    kept = sorted((event for n, event in events if n not in broken), key=lambda event: event["t"])
    return EventStory(kept, list(_notes(broken, number, newer, kept)))


def _notes(broken: dict[int, str], last: int, newer: int, events: list[dict[str, Any]]) -> Iterator[str]:
    if list(broken) == [last]:
        yield f"the file breaks off in line {last}: what comes before it is shown"
    elif broken:
        shown = ", ".join(map(str, sorted(broken)[:5])) + (", ..." if len(broken) > 5 else "")
        reasons = "; ".join(f"{count:,} {why}" for why, count in Counter(broken.values()).most_common(3))
        yield f"{many(len(broken), 'line')} cannot be read and left out: {shown} ({reasons})"
    if newer:
        yield f"{many(newer, 'line')} of a newer safeloader left out"
    if events and not any(event["event"] == "batch" for event in events):
        yield "no batch is in the file: run with SAFELOADER_TRACE=1 for lanes of loading, waiting and computing"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An event by its common keys."""
    try:
        event = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    if not _is_time(event.get("t")) or isinstance(event.get("v"), bool) or not isinstance(event.get("v"), int):
        return None
    if not isinstance(event.setdefault("loader", ""), str):
        return None
    return event


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


# ---------------------------------------------------------------- against the schema

_SCHEMA = schema()
_COMMON: dict[str, Any] = _SCHEMA["properties"]
_FREE = ("v", "cause")  # a newer version, and causes that it may know
_KINDS: dict[str, dict[str, Any]] = {
    one["if"]["properties"]["event"]["const"]: {
        name: allowed for name, allowed in {**_COMMON, **one["then"]["properties"]}.items() if name not in _FREE
    }
    for one in _SCHEMA["allOf"]
}


def _wrong(event: dict[str, Any]) -> str:
    """What is wrong with an event; keys that are not known are not looked at, and few must be there."""
    kind = event["event"]
    known = _KINDS.get(kind, _COMMON)
    for name, value in event.items():
        if name in known and not _fits(value, known[name]):
            return f"has an odd {name!r}"
    for name in _NEEDED.get(kind, ()):
        if event.get(name) is None:
            return f"has no {name!r}"
    if kind == "fault" and not isinstance(event["cause"], str):
        return "has an odd 'cause'"
    return _wrong_times(event)


def _wrong_times(event: dict[str, Any]) -> str:
    """Times must be some, in their order, and not far from the event's own."""
    if event["event"] == "batch":
        given = [event[name] for name in _TIMES[1:4] if event.get(name) is not None]
        loaded = len(given) == 3
        if (given and (not loaded or given != sorted(given))) or event["asked"] > event["got"]:
            return "has times that are not in their order"
        times = (*given, event["asked"], event["got"])
        if not all(_is_time(time) and abs(time - event["t"]) < _YEAR for time in times):
            return "has an odd time"
    for name in ("seconds", "stalled", "seconds_lost"):
        if event.get(name) is not None and not 0 <= event[name] < _YEAR:
            return f"has an odd {name!r}"
    return ""


def _fits(value: Any, allowed: dict[str, Any]) -> bool:
    """Whether a value is what a part of the schema allows: the few words that `safeloader.observe.schema` uses."""
    if "anyOf" in allowed:
        return any(_fits(value, one) for one in allowed["anyOf"])
    if "enum" in allowed:
        return value in allowed["enum"]
    kinds = allowed.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not kinds:
        return True
    if isinstance(value, list) and "array" in kinds:
        return all(_fits(one, allowed.get("items", {})) for one in value)
    return any(_is(value, kind) for kind in kinds)


def _is(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        types = (int,) if kind == "integer" else (int, float)
        return isinstance(value, types) and not isinstance(value, bool) and abs(value) < _LARGEST
    return isinstance(value, {"string": str, "object": dict}.get(kind, ()))


def _is_time(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value < _LATEST
