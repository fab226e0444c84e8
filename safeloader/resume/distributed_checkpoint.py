"""A loader's state as ``torch.distributed.checkpoint`` can keep it: one leaf a rank, whatever the moment.

That package takes a state apart into leaves, keeps those of equal name once for all ranks, and on loading asks for the
leaves that the state has *then*. A loader's state varies by the moment and by the rank. So to that package, which is
known by its frames, a loader gives one leaf of bytes that is named for its rank, and on loading asks for its own, or,
where there are other ranks than there were, for one of those that were saved: an elastic sampler's state is common.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import sys
from typing import Any

from safeloader.dist_env import ALONE, group
from safeloader.errors import StateError

__all__ = ["asks_for_names", "frame_of", "is_leaf", "leaf", "name_of", "placeholder", "takes_leaves", "unleaf"]

_SAVES = "torch.distributed.checkpoint.state_dict_saver"
_LOADS = "torch.distributed.checkpoint.state_dict_loader"
_NAME = re.compile(r"rank (\d+) of (\d+)")
_MAGIC = b"SLstate1"
_HINT = "give torch.distributed.checkpoint.load() what its save() has written, whole"


def takes_leaves() -> bool:
    """Whether ``torch.distributed.checkpoint`` saves right now, and whoever calls is asked for a state by it."""
    return frame_of(_SAVES) is not None


def asks_for_names() -> bool:
    """Whether it loads right now, and wants to know which leaves to read."""
    return frame_of(_LOADS) is not None


def leaf(state: dict[str, Any]) -> dict[str, bytes]:
    """A state as this rank's leaf."""
    data = b"j" + json.dumps(state).encode() if _is_json(state) else b"p" + pickle.dumps(state)
    return {name_of(*(group() or ALONE)): _MAGIC + hashlib.sha256(data).digest() + data}


def placeholder() -> dict[str, bytes]:
    """The name of the leaf that this rank wants."""
    rank, world = group() or ALONE
    saved = _saved(frame_of(_LOADS))
    if saved and (rank, world) not in saved:
        others = max(number for _, number in saved)
        rank, world = rank % others, others
    return {name_of(rank, world): b""}


def is_leaf(state: Any) -> bool:
    """Whether this is a state that was given as a leaf, or those of several ranks."""
    return isinstance(state, dict) and bool(state) and all(_NAME.fullmatch(str(name)) for name in state)


def unleaf(state: dict[str, Any]) -> dict[str, Any]:
    """The state in a leaf; of several, in this rank's, or, among other ranks than there were, in one of them.

    Raises:
        StateError: it is damaged, or nothing was loaded.
    """
    rank, _ = group() or ALONE
    name = name_of(*(group() or ALONE))
    if name not in state:
        name = sorted(state)[rank % len(state)]
    value = state[name]
    head = len(_MAGIC) + 32
    if not isinstance(value, (bytes, bytearray)) or not value:
        raise StateError(f"the state of {name} was not loaded: it is {value!r}"[:200], hint=_HINT)
    data = bytes(value[head:])
    if not value.startswith(_MAGIC) or hashlib.sha256(data).digest() != value[len(_MAGIC) : head]:
        raise StateError(f"the state of {name} is damaged: its digest does not fit", hint=_HINT)
    told: dict[str, Any] = json.loads(data[1:]) if data[:1] == b"j" else pickle.loads(data[1:])
    return told


def _is_json(value: Any) -> bool:
    """Whether it comes back from JSON as what it is; what a sampler or dataset has put into a state may not."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    return all(map(_is_json, value)) if type(value) is list else value is None or type(value) in (bool, int, float, str)


def name_of(rank: int, world: int) -> str:
    """What a rank's leaf is called."""
    return f"rank {rank} of {world}"


def frame_of(module: str) -> Any:
    """The innermost frame of this module that the present call is made from, however far; None if there is none."""
    if module not in sys.modules:
        return None
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame


def _saved(frame: Any) -> set[tuple[int, int]]:
    """The ranks and worlds whose leaves are in the checkpoint that is loaded; none if that cannot be known."""
    while frame is not None and "storage_reader" not in frame.f_locals:
        frame = frame.f_back
    if frame is None:
        return set()
    try:
        names = frame.f_locals["storage_reader"].read_metadata().state_dict_metadata
    except Exception:  # whoever loads will say what is wrong with it
        return set()
    found = [_NAME.fullmatch(str(name).rpartition(".")[2]) for name in names]
    return {(int(match[1]), int(match[2])) for match in found if match}
