"""A loader's state in checkpoints that one rank writes for all: those of Lightning, Fabric and Accelerate.

They ask each rank's loader for its state, and one of these reaches the file. So to them, which are known by their
frames, the loader of each rank gives the leaves of all, as `distributed_checkpoint` makes them: each rank writes its
own into the process group's store, and reads the others'. No call is a collective operation: a rank that does not come
is missing in the checkpoint, which a line says, and holds up nobody for longer than a while.
"""

from __future__ import annotations

from collections import Counter
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from safeloader.codes import log_warning
from safeloader.dist_env import ALONE, group
from safeloader.distributed.store import group_store
from safeloader.resume import distributed_checkpoint

if TYPE_CHECKING:
    from safeloader.distributed.store import GroupStore

__all__ = ["is_written", "leaves"]

_WRITERS = (
    "lightning.pytorch.utilities.combined_loader",
    "pytorch_lightning.utilities.combined_loader",
    "lightning.fabric.strategies.strategy",
    "lightning_fabric.strategies.strategy",
    "accelerate.checkpointing",
)
_PATIENCE = 60.0  # seconds for the slowest rank to come to the same checkpoint
_numbers: Counter[str] = Counter()  # by loader: how many checkpoints there were


def is_written() -> bool:
    """Whether one of several ranks writes a checkpoint right now, and whoever calls is asked for a state by it."""
    return (group() or ALONE)[1] > 1 and any(map(distributed_checkpoint.frame_of, _WRITERS))


def leaves(state: dict[str, Any], loader: str) -> dict[str, bytes]:
    """The states of all ranks' loaders of this name, which are asked for theirs as often as this one.

    Args:
        state: This rank's.
        loader: Its loader's name.
    """
    own, store, (rank, world) = distributed_checkpoint.leaf(state), group_store(), group() or ALONE
    number = _numbers[loader]
    _numbers[loader] += 1
    places = [f"state/{loader}/{number}/{other}" for other in range(world)]
    (data,) = own.values()
    if store is None or store.ask(lambda keys: keys.set(places[rank], data) or True, _PATIENCE) is None:
        found: dict[str, bytes] = {}
    else:
        found = _read(store, places)
        if number > 1:  # all have come to the last, so nobody reads what was before
            store.delete(f"state/{loader}/{number - 2}/{rank}")
    told = {distributed_checkpoint.name_of(n, world): found[p] for n, p in enumerate(places) if p in found}
    if len({**told, **own}) < world:
        log_warning(
            "SL123",
            "the checkpoint lacks the place in the data of %s of %s ranks: their loaders of the name %r were not asked "
            "for a state, or the process group's store did not answer",
            world - len({**told, **own}), world, loader,
        )  # fmt: skip
    return {**told, **own}


def _read(store: GroupStore, places: list[str]) -> dict[str, bytes]:
    """What the ranks have written, once all have."""
    until, pause = monotonic() + _PATIENCE, 0.005
    while True:
        found = store.look(places, _PATIENCE) or {}
        if len(found) == len(places) or monotonic() > until:
            return found
        sleep(pause)
        pause = min(2 * pause, 0.5)
