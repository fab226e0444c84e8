"""Where each worker stood, in plain words and back.

Of a map-style dataset that was seen to change itself (a counter, a cache) a state has what its worker did since it was
as a new copy is: whoever goes on from the state does that again.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from typing import TYPE_CHECKING, Any

import numpy

from safeloader.core.state import AsNew, DatasetSnapshot, Redo, WorkerCursor, WorkerPosition
from safeloader.resume.json_codec import decode, encode, pack, states_of, states_to, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["begins_of", "standing_of", "standing_to"]


def standing_of(standing: WorkerCursor, begins: Sequence[tuple[int, object]]) -> dict[str, Any]:
    """A worker's place in plain words. ``begins``: how epochs began."""
    mark = standing.mark
    return {
        "position": standing.position,
        "ended": standing.ended,
        "epoch_generators": states_of(standing.epoch_snapshot),
        "generators": states_of(standing.snapshot),
        "mark": None
        if mark is None
        else {"position": mark.position, "said": mark.content, "generators": states_of(mark.snapshot)},
        "replay": [[encode(indices), list(skip)] for indices, skip in standing.replay],
        "digests": pack(standing.digests),
        **({"changed": _changed_of(standing, begins)} if standing.changed else {}),
    }


def _changed_of(standing: WorkerCursor, begins: Sequence[tuple[int, object]]) -> dict[str, Any] | None:
    """None: what it did is not known."""
    as_new, done = standing.as_new, standing.done
    if done is None or as_new is None:
        return None if done is None else {"done": []}
    epochs = {as_new.epoch, *(each.epoch for each in done)}
    return {
        "as_new": [as_new.epoch, as_new.position, states_of(as_new.snapshot), as_new.ended],
        "done": _done_of(done),
        "begins": [[number, encode(how)] for number, how in begins if number in epochs],
    }


def _done_of(done: Sequence[Redo]) -> list[list[Any]]:
    """What a worker did; the indices of tasks that follow one another as one text, where they are plain numbers."""
    told: list[list[Any]] = []
    for plain, some in itertools.groupby(done, _is_plain):
        run = list(some)
        told += [_of_plain([each.indices for each in run])] if plain else [_of_one(each) for each in run]
    return told


def _is_plain(done: Redo) -> bool:
    indices: Any = done.indices
    return type(indices) is list and not done.skip and set(map(type, indices)) == {int}


def _of_plain(tasks: list[Any]) -> list[Any]:
    indices = list(itertools.chain.from_iterable(tasks))
    try:
        data = numpy.array(indices, dtype="<i8").tobytes()
    except OverflowError:
        return ["numbers", indices, list(map(len, tasks))]
    return ["packed", base64.b64encode(zlib.compress(data, 1)).decode(), list(map(len, tasks))]


def _of_one(done: Redo) -> list[Any]:
    if done.epoch is not None:
        return ["epoch", done.epoch]
    if done.back is not None:
        return ["back", done.back.position, states_of(done.back.snapshot)]
    return ["task", encode(done.indices), list(done.skip)]


def standing_to(told: dict[str, Any]) -> WorkerCursor:
    """What `standing_of` told."""
    mark = told["mark"]
    cursor = WorkerCursor(
        int(told["position"]),
        bool(told["ended"]),
        states_to(told["epoch_generators"]),
        states_to(told["generators"]),
        None if mark is None else DatasetSnapshot(int(mark["position"]), mark["said"], states_to(mark["generators"])),
        tuple((decode(indices), tuple(skip)) for indices, skip in told["replay"]),
        unpack(told["digests"]) if told.get("digests") else b"",  # older states have none
    )
    if "changed" not in told:
        return cursor
    changed = told["changed"]
    if changed is None:
        return cursor._replace(changed=True, done=None)
    done = tuple(itertools.chain.from_iterable(_done_to(*each) for each in changed["done"]))
    if not done:
        return cursor
    epoch, position, states, ended = changed["as_new"]
    as_new = AsNew(int(epoch), int(position), states_to(states), bool(ended))
    return cursor._replace(changed=True, as_new=as_new, done=done)


def _done_to(kind: str, what: Any, more: Any = None) -> list[Redo]:
    if kind == "epoch":
        return [Redo(int(what))]
    if kind == "back":
        return [Redo(None, back=WorkerPosition(int(what), states_to(more)))]
    if kind == "task":
        return [Redo(None, decode(what), tuple(more))]
    if kind == "packed":
        what = numpy.frombuffer(zlib.decompress(base64.b64decode(what)), dtype="<i8").tolist()
    indices = iter(what)
    return [Redo(None, list(itertools.islice(indices, count))) for count in more]


def begins_of(workers: Sequence[dict[str, Any]]) -> tuple[tuple[int, object], ...]:
    """How epochs began that workers have to begin again."""
    changed = [told["changed"] for told in workers if told.get("changed")]
    return tuple({int(number): decode(how) for each in changed for number, how in each.get("begins", ())}.items())
