"""What a rank says of itself on the board: one small value, and its form on the wire.

No clock reading is in it, only ages: the clocks of two hosts need not agree. The form is a JSON list that begins with
its version, of at most `MOST_BYTES`; texts are cut to fit. What cannot be read is no row, never an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from safeloader.observe.format import inline

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MOST_BYTES", "VERSION", "RankStatus", "decode", "encode", "status_of"]

VERSION = 1
MOST_BYTES = 1023
_WORDS = {"host": 40, "loader": 40, "place": 100, "sample": 60, "doing": 100}
"""Texts, and how many characters of each are kept."""
_TEXT_BYTES = 640
"""All texts of a row together; numbers take less than the rest."""
_LARGEST = 1 << 53
_NO_NUMBER = 1 << 64
"""No count and no number of seconds is so large; infinity is."""

State = Literal["waits", "steps", "between", "idle", "left"]


@dataclass(frozen=True, slots=True)
class RankStatus:
    """One rank.

    Attributes:
        rank: its number.
        count: rows that it has published, this one included: what tells a new row from an old one.
        every: seconds until it publishes again.
        state: ``"waits"`` for a batch, ``"steps"`` (it has one), ``"between"`` epochs, ``"idle"`` (no loader has begun
            one), or it has ``"left"``.
        since: seconds that it has been so.
        host: name of its machine.
        pid: its process.
        loader: the loader that moved last, or waits.
        epoch: of that loader, from 0.
        batch: the batch that is awaited or held, from 0; between epochs: how many there were.
        length: batches of an epoch, where known.
        ready: batches that are loaded and wait for the program.
        place: where the program is, ``"train.py:88 in step"``; "" while it moves.
        joined: it is in a call of torch that other ranks take part in, or in a backward pass.
        worker: whose the awaited batch is.
        sample: the index in work there.
        working: seconds that this has been in work.
        doing: the same in words, where no sample is known.
        faults: of this loader so far.
        processes: its rung of the ladder.
        workers: the top of it.
    """

    rank: int
    count: int
    every: float
    state: State
    since: float
    host: str = ""
    pid: int = 0
    loader: str = ""
    epoch: int = 0
    batch: int = 0
    length: int | None = None
    ready: int = 0
    place: str = ""
    joined: bool = False
    worker: int | None = None
    sample: int | str | None = None
    working: float = 0.0
    doing: str = ""
    faults: int = 0
    processes: int = 0
    workers: int = 0


_NAMES = tuple(field.name for field in fields(RankStatus))
_STATES = ("waits", "steps", "between", "idle", "left")
_SECONDS = ("every", "since", "working")
_NUMBERS = (*_SECONDS, "rank", "count", "pid", "epoch", "batch", "ready", "faults", "processes", "workers")


def encode(row: RankStatus) -> bytes:
    """A row on the wire; its texts are cut, its ages are rounded to a tenth of a second."""
    cut: dict[str, Any] = {name: round(float(getattr(row, name)), 1) for name in _SECONDS}
    left = _TEXT_BYTES
    for name, most in _WORDS.items():
        value = getattr(row, name)
        if isinstance(value, str):
            cut[name] = _fitting(value, most, left)
            left -= _weight(cut[name])
    if isinstance(row.sample, int) and abs(row.sample) > _LARGEST:
        cut["sample"] = inline(row.sample, 30)
    row = replace(row, **cut)
    return json.dumps([VERSION, *(getattr(row, name) for name in _NAMES)], separators=(",", ":")).encode()


def _weight(text: str) -> int:
    return len(json.dumps(text))


def _fitting(text: str, most: int, left: int) -> str:
    """A text cut to so many characters, and to so many bytes of JSON."""
    text = inline(text, most)
    while _weight(text) > left:
        text = text[: len(text) // 2]
    return text


def decode(wire: bytes) -> RankStatus | None:
    """The row, or None if this is none, or one of another version."""
    if len(wire) > MOST_BYTES:
        return None
    try:
        told = json.loads(wire)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, list) or len(told) != 1 + len(_NAMES) or told[0] != VERSION:
        return None
    values = dict(zip(_NAMES, told[1:], strict=True))
    return RankStatus(**values) if _is_row(values) else None


def _is_row(values: dict[str, Any]) -> bool:
    numbers = all(type(values[name]) in (int, float) and 0 <= values[name] < _NO_NUMBER for name in _NUMBERS)
    texts = all(isinstance(values[name], str) for name in ("host", "loader", "place", "doing"))
    maybe = all(values[name] is None or type(values[name]) is int for name in ("length", "worker"))
    sample = values["sample"] is None or type(values["sample"]) in (int, str)
    return numbers and texts and maybe and sample and values["state"] in _STATES and type(values["joined"]) is bool


def status_of(status: Mapping[str, Any], *, rank: int, count: int, every: float, host: str) -> RankStatus:
    """The row of a program that stands so.

    Of several loaders the one is told of that waits, or else is in an epoch, or else moved last: as a stall's.

    Args:
        status: what `safeloader.observe.status.program_status` says.
        rank: the program's.
        count: rows that it has published, this one included.
        every: seconds until the next.
        host: name of its machine.
    """
    pid, loaders = int(status["pid"]), status["loaders"]
    if not loaders:
        return RankStatus(rank, count, every, "idle", 0.0, host, pid)
    told = max(loaders, key=lambda one: (one["waiting"], one["busy"], -one["since"]))
    state: State = "waits" if told["waiting"] else "steps" if told["busy"] else "between"
    due = told.get("due") or {}
    batch = told["batch"] - (state == "steps")
    facts: dict[str, Any] = {"ready": due.get("ready", 0)}
    if state == "waits" and due:
        sample = due["sample"]
        facts.update(
            worker=due["worker"], working=due["seconds"], doing="" if sample is not None else due["doing"],
            sample=sample if sample is None or type(sample) is int else inline(sample, _WORDS["sample"]),
        )  # fmt: skip
        batch = batch if due["batch"] is None else due["batch"]
    return RankStatus(
        rank, count, every, state, told["since"], host, pid, told["name"], max(told["epoch"], 0), max(batch, 0),
        told["length"], place=told.get("place", ""), joined=told.get("joined", False), faults=told["faults"],
        processes=told["processes"], workers=told["workers"], **facts,
    )  # fmt: skip
