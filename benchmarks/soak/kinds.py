"""The kinds of loaders that run beside each other: a dataset, arguments, and a policy each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.soak.data import COUNT, Draws, Held, Orders, Stream, UnseededStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EPOCHS = 3
"""Epochs of one loader's life: with persistent workers, their generators go on from one to the next."""
BATCH_TIMEOUT = 5.0


@dataclass(frozen=True)
class Kind:
    """One kind of loader.

    Attributes:
        name: What the table calls it.
        dataset: Makes the dataset.
        policy: Arguments of `Policy`.
        options: Arguments of `DataLoader`.
        pooled: Its processes are the pool's.
        ranked: Its sampler takes the rank's share.
        unseeded: No two epochs are alike: an epoch is right if it gives each sample once.
    """

    name: str
    dataset: Callable[[Orders], Any]
    policy: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    pooled: bool = False
    ranked: bool = False
    unseeded: bool = False


KINDS = (
    Kind("map, spawn", Draws),
    Kind("map, forkserver", Draws, {"start_method": "forkserver"}),
    Kind("generators in the dataset", Held, {"start_method": "forkserver"}),
    Kind("standby", Draws, {"start_method": "forkserver", "standby": 1}),
    Kind("stream", Stream, {"start_method": "forkserver"}),
    Kind("stream, batch by batch", Stream, {"start_method": "forkserver"}, {"batch_size": None}),
    Kind(
        "stream shuffled without a seed", UnseededStream, {"start_method": "forkserver", "shadow": True}, unseeded=True
    ),
    Kind("one process for all", Held, {"start_method": "forkserver", "max_processes": 1}),
    Kind("in the trainer", Held, {"max_processes": 0}),
    Kind("pool, train", Draws, pooled=True),
    Kind("pool, val", Held, pooled=True),
    Kind("elastic sampler", Draws, {"start_method": "forkserver"}, ranked=True),
)


def arguments(kind: Kind, orders: Orders) -> dict[str, Any]:
    """What torch's DataLoader and safeloader's are given alike; the generator is seeded anew for every life."""
    dataset, generator = kind.dataset(orders), torch.Generator().manual_seed(len(kind.name))
    asked: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "persistent_workers": True, "generator": generator}
    if not isinstance(dataset, Stream) and not kind.ranked:
        asked["shuffle"] = True
    return {"dataset": dataset, **asked, **kind.options}


def sampler(kind: Kind, rank: int, world: int) -> dict[str, Any]:
    """The sampler of a kind that is ranked."""
    if not kind.ranked:
        return {}
    from safeloader.distributed import ElasticDistributedSampler

    return {"sampler": ElasticDistributedSampler(range(COUNT), num_replicas=world, rank=rank, seed=3)}


def fingerprint(batch: torch.Tensor) -> bytes:
    """A batch's shape, type and bytes."""
    head = f"{batch.dtype} {tuple(batch.shape)}|".encode()
    return hashlib.sha256(head + batch.contiguous().numpy().tobytes()).digest()


def once_each(batches: list[torch.Tensor]) -> bool:
    """Whether an epoch gave each sample once."""
    return sorted(int(index) for batch in batches for index in batch[:, 0]) == list(range(COUNT))


def undisturbed(kind: Kind, rank: int, world: int) -> list[list[bytes]]:
    """What torch's own DataLoader gives in a life: a fingerprint a batch, a list an epoch."""
    from torch.utils.data import DataLoader

    given = {**arguments(kind, Orders()), **sampler(kind, rank, world)}
    # Forked, since torch's spawn cannot send a `torch.Generator`; nothing else runs here yet.
    loader: DataLoader[torch.Tensor] = DataLoader(multiprocessing_context="fork", **given)
    return [[fingerprint(batch) for batch in loader] for _ in epochs(loader)]


def epochs(loader: Any) -> Iterator[int]:
    """The epochs of a life; the sampler is told."""
    for epoch in range(EPOCHS):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield epoch
