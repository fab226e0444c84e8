"""The random generator objects of the main process that a loader's batches depend on.

They are those of its samplers and, without workers, those of the dataset. (A worker's are part of its standing.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.runtime.child.own_generators import OwnGenerators

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["held_now", "put_back"]


def held_now(loader: DataLoader[Any]) -> dict[str, Any] | None:
    """Their states; None if there are none."""
    return _held(loader, samplers=True).capture()


def put_back(loader: DataLoader[Any], told: dict[str, Any] | None, samplers: bool) -> list[str]:
    """Set their states. Returns the paths of those that are not there, since the dataset makes them later.

    Args:
        loader: whose they are.
        told: what `held_now` told.
        samplers: those of the samplers, too, which did not restore themselves.
    """
    if told is None:
        return []
    held = _held(loader, samplers)
    states = {path: entry for path, entry in told["states"].items() if samplers or not path.startswith("sampler")}
    here = held.known(states)
    held.restore({**told, "states": here})
    return [path for path in states if path not in here]


def _held(loader: DataLoader[Any], samplers: bool) -> OwnGenerators:
    roots: list[tuple[str, Any]] = []
    if samplers and not torch_private.is_iterable(loader):
        roots.append(("sampler", torch_private.index_sampler(loader)))
    if not loader.num_workers:
        roots += [("dataset", loader.dataset), ("collate_fn", loader.collate_fn)]
    return OwnGenerators(roots, without=[loader.dataset] if loader.num_workers else [])
