"""The dict itself: written, and read back with care: whatever is wrong with it is said before anything is changed."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from safeloader.codes import warn
from safeloader.core.state import State, WorkerCursor
from safeloader.errors import StateError
from safeloader.resume.json_codec import decode, encode, pack, states_of, states_to, unpack
from safeloader.resume.sampler_state import decode_planned, encode_planned
from safeloader.resume.seal import seal_of
from safeloader.resume.standings import begins_of, standing_of, standing_to

if TYPE_CHECKING:
    from safeloader.runtime.child.generators import States

__all__ = ["FORMAT", "LoaderCheckpoint", "Moment", "logical", "moved_on", "read", "write"]

FORMAT = 2
_UNSEALED = 1  # the same without a seal
_KEYS = (
    "facts", "epoch", "begun", "batch", "drawn", "turn", "over", "base_seed", "shared_seed", "sample_seed", "sampler",
    "begins", "last", "planned", "workers", "slowest", "exhausted",
    "begin", "now",
)  # fmt: skip
_SEALED = ("safeloader", *_KEYS)


@dataclass(frozen=True)
class Moment:
    """The generators of the main process: the program's three, and those that loader and samplers own.

    ``held`` are all generator objects of the samplers and, without workers, of the dataset.
    """

    program: States
    own: dict[str, torch.Tensor]
    held: dict[str, Any] | None = None


@dataclass(frozen=True)
class LoaderCheckpoint:
    """A state, read.

    Attributes:
        facts: what the loader was like.
        begun: an epoch had begun; else only the generators and the epoch's number count.
        state: where it stood; contents of marks are the user's own objects.
        begin: the generators before the epoch's first draw.
        now: the generators when the state was taken.
    """

    facts: dict[str, Any]
    begun: bool
    state: State
    base_seed: int
    shared_seed: int | None
    sample_seed: int | None
    sampler: dict[str, Any]
    begins: dict[str, Any]
    begin: Moment
    now: Moment
    raw: dict[str, Any]


def write(point: LoaderCheckpoint) -> dict[str, Any]:
    """A state in plain words."""
    state = point.state
    told = {
        "safeloader": FORMAT,
        "facts": point.facts,
        "epoch": state.epoch,
        "begun": point.begun,
        "batch": state.batch,
        "drawn": state.drawn,
        "turn": state.turn,
        "over": state.over,
        "base_seed": point.base_seed,
        "shared_seed": point.shared_seed,
        "sample_seed": point.sample_seed,
        "sampler": point.sampler,
        "begins": point.begins,
        "last": None if state.last is None else encode_planned(state.last),
        "planned": [encode_planned(task) for task in state.planned],
        "workers": [standing_of(standing, state.begins) for standing in state.workers],
        "slowest": list(state.slowest),
        "exhausted": state.exhausted,
        "begin": _moment_of(point.begin),
        "now": _moment_of(point.now),
    }
    return _sealed(_copied(told))


def _copied(told: dict[str, Any]) -> dict[str, Any]:
    """With what samplers and datasets said of themselves as it is now: they may go on with the same objects."""
    try:
        return copy.deepcopy(told)
    except Exception:  # say, a lock
        return told


def _sealed(told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "seal": seal_of(told, _SEALED)}


def _check_seal(told: dict[str, Any]) -> None:
    if told["safeloader"] == _UNSEALED:
        warn(
            "SL104",
            "this state was saved by an older version of safeloader, without a seal: whether it has been changed since "
            "cannot be seen",
            stacklevel=5,
        )
    elif told["seal"] != seal_of(told, _SEALED):
        raise StateError(
            "this state is damaged: it is not as it was saved (its seal does not fit)",
            hint="go on from another checkpoint, or begin anew without the state; a state must not be edited",
            code="SL221",
        )


def read(told: Any) -> LoaderCheckpoint:
    """A state from plain words.

    Raises:
        StateError: it is none, or not whole.
    """
    if not isinstance(told, dict):
        raise StateError(f"a state is a dict, not {type(told).__name__}", hint=_HINT)
    if "safeloader" not in told:
        foreign = "_snapshot" in told or "_sampler_iter_yielded" in told
        whose = "it is one of torchdata's StatefulDataLoader" if foreign else f"it has the keys {sorted(told)[:8]}"
        raise StateError(f"this is no state of a safeloader.DataLoader: {whose}", hint=_HINT)
    if told["safeloader"] not in (FORMAT, _UNSEALED):
        raise StateError(
            f"this state has format {told['safeloader']!r}, and this version of safeloader reads "
            f"{_UNSEALED} and {FORMAT}",
            hint="load it with the version that saved it, or begin anew without it",
        )
    sealed = () if told["safeloader"] == _UNSEALED else ("seal",)
    missing = [key for key in (*_KEYS, *sealed) if key not in told]
    if missing:
        raise StateError(f"this state is not whole: it has no {', '.join(missing)}", hint=_HINT)
    _check_seal(told)
    try:
        return _read(told)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise StateError(f"this state is damaged: {type(error).__name__}: {error}", hint=_HINT) from error


_HINT = "give load_state_dict() what state_dict() of the same loader returned"


def _read(told: dict[str, Any]) -> LoaderCheckpoint:
    state = State(
        epoch=int(told["epoch"]),
        batch=int(told["batch"]),
        drawn=int(told["drawn"]),
        turn=int(told["turn"]),
        over=bool(told["over"]),
        last=None if told["last"] is None else decode_planned(told["last"]),
        planned=tuple(decode_planned(task) for task in told["planned"]),
        workers=tuple(standing_to(standing) for standing in told["workers"]),
        slowest=(float(told["slowest"][0]), float(told["slowest"][1])),
        exhausted=bool(told["exhausted"]),
        begins=begins_of(told["workers"]),
    )
    if min(state.epoch, state.batch, state.drawn, state.turn) < 0 or not isinstance(told["facts"], dict):
        raise ValueError("a number is below zero, or the facts are none")
    return LoaderCheckpoint(
        facts=told["facts"],
        begun=bool(told["begun"]),
        state=state,
        base_seed=int(told["base_seed"]),
        shared_seed=told["shared_seed"],
        sample_seed=told["sample_seed"],
        sampler=dict(told["sampler"]),
        begins=dict(told["begins"]),
        begin=_moment_to(told["begin"]),
        now=_moment_to(told["now"]),
        raw=told,
    )


def moved_on(told: dict[str, Any], now: Moment) -> dict[str, Any]:
    """A state in plain words, with the main process's generators as they are now: a step has drawn since."""
    moment = _moment_of(now)
    resting = not told["begun"] or told["over"]  # then the next epoch begins with them
    moved = {**told, "now": moment, **({"begin": moment} if resting else {})}
    return _sealed(moved) if told["safeloader"] == FORMAT else moved


def logical(point: LoaderCheckpoint, num_workers: int) -> LoaderCheckpoint:
    """The same place in the stream of samples for another number of workers: each begins anew."""
    state = point.state
    many = max(num_workers, 1)
    planned = tuple(task._replace(worker=task.batch % many) for task in state.planned)
    fresh = tuple(WorkerCursor(0, ended=False, epoch_snapshot=None, snapshot=None) for _ in range(num_workers))
    return replace(point, state=state._replace(planned=planned, workers=fresh, turn=state.drawn % many))


# ---------------------------------------------------------------- parts


def _moment_of(moment: Moment) -> dict[str, Any]:
    own = {place: pack(state.numpy().tobytes()) for place, state in moment.own.items()}
    held = {} if moment.held is None else {"held": encode(moment.held)}
    return {"program": states_of(moment.program), "own": own, **held}


def _moment_to(told: dict[str, Any]) -> Moment:
    program = states_to(told["program"])
    if program is None:
        raise ValueError("the program's generators are missing")
    own = {place: torch.frombuffer(bytearray(unpack(text)), dtype=torch.uint8) for place, text in told["own"].items()}
    return Moment(program, own, decode(told.get("held")))
