"""What a loader's state is: plain values that say where it stands, and of which data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from safeloader.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safeloader.ffcv.beton import Beton
    from safeloader.ffcv.order import SampleOrder

__all__ = ["VERSION", "checked_state", "state_of"]

VERSION = 1


def state_of(order: SampleOrder, beton: Beton) -> dict[str, Any]:
    """What must be the same for a place to mean the same. Ranks differ in their rank alone, which is left out."""
    return {
        "version": VERSION,
        "samples": beton.num_samples,
        "indices": hashlib.sha256(order.indices.tobytes()).hexdigest()[:16],
        "order": order.name,
        "seed": order.seed,
        "batch_size": order.batch_size,
        "drop_last": order.drop_last,
        "world_size": order.world_size,
    }


def checked_state(state: Mapping[str, Any], ours: Mapping[str, Any], batches: int, name: str) -> tuple[int, int]:
    """The (epoch, batch) of a state.

    Raises:
        SettingsError: It is no state, or one of another loader; all that differs is named.
    """
    missing = [key for key in (*ours, "epoch", "batch") if key not in state]
    if missing:
        raise SettingsError(f"this is no state of a safeloader.ffcv.Loader: {', '.join(missing)} missing", where=name)
    different = [f"{key} was {state[key]!r} and is {value!r}" for key, value in ours.items() if state[key] != value]
    if different:
        raise SettingsError(
            "this state is of another loader: " + "; ".join(different),
            where=name,
            hint="resume with the arguments of the run that was saved; of another epoch start: set_epoch(epoch)",
        )
    epoch, batch = int(state["epoch"]), int(state["batch"])
    if epoch < 0 or not 0 <= batch <= batches:
        raise SettingsError(f"epoch {epoch}, batch {batch} of {batches} is no place", where=name)
    return (epoch + 1, 0) if batch == batches else (epoch, batch)
