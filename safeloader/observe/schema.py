"""The file of events as a JSON Schema, made from the happenings: ``python -m safeloader.observe.schema`` writes it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from safeloader.observe import events
from safeloader.observe.batch_trace import BatchGiven
from safeloader.observe.event_file import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["schema"]

_TYPES: dict[str, Any] = {
    "int": {"type": "integer"},
    "float": {"type": ["number", "null"]},  # what JSON cannot hold is null
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "None": {"type": "null"},
    "Any": {},
    "dict[str, Any]": {"type": "object"},
}


def schema() -> dict[str, Any]:
    """The JSON Schema of one line. New keys and new events are allowed: they do not change the version."""
    common = {
        "v": {"const": VERSION},
        "t": {"type": "number", "description": "seconds since 1970"},
        "loader": {"type": "string"},
        "event": {"type": "string"},
        "trainer": {"type": "integer", "description": "pid of the training process"},
        "rank": {"type": "integer"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"safeloader's events, version {VERSION}",
        "type": "object",
        "required": ["v", "t", "loader", "event", "trainer"],
        "properties": common,
        "allOf": [{"if": {"properties": {"event": {"const": kind.event}}}, "then": _keys(kind)} for kind in _kinds()],
    }


def _kinds() -> Iterator[type[events.Happening]]:
    for name in events.__all__:
        found = getattr(events, name)
        if isinstance(found, type) and found is not events.Happening:
            yield found
    yield BatchGiven


def _keys(kind: type[events.Happening]) -> dict[str, Any]:
    own = {item.name: _of(str(item.type)) for item in fields(kind) if item.name not in ("time", "loader")}
    if "cause" in own and kind is events.Fault:
        own["cause"] = {"enum": list(events.CAUSES)}
    return {"required": list(own), "properties": own}


def _of(annotation: str) -> dict[str, Any]:
    options = [_one(part) for part in annotation.split(" | ")]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _one(annotation: str) -> dict[str, Any]:
    listed = re.fullmatch(r"list\[(.*)\]", annotation)
    if listed:
        return {"type": "array", "items": _one(listed[1])}
    return dict(_TYPES[annotation])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")
