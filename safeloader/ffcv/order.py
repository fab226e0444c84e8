"""Which sample comes when: FFCV's own orders as a pure function of plain values, the same in every process and way.

FFCV's `Random`, `Sequential` and, distributed, torch's DistributedSampler are followed exactly. FFCV's `QuasiRandom`
shuffles its own tables, so that what it gives for an epoch depends on how often it was asked before; here it is made
anew for each epoch.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from safeloader.distributed.order import mix_words

if TYPE_CHECKING:
    from safeloader.ffcv.beton import Beton

__all__ = ["SampleOrder", "mixed"]


@dataclass(frozen=True, slots=True, eq=False)
class SampleOrder:
    """The order of a loader's samples.

    Attributes:
        kind: ``"SEQUENTIAL"``, ``"RANDOM"``, ``"QUASI_RANDOM"``, or a TraversalOrder of FFCV: a class, or an object
            without its loader.
        indices: The samples that take part, one-dimensional.
        seed: Seed of the order.
        batch_size: Samples a batch.
        drop_last: Leave out the last batch if it is not full.
        rank: This rank, or None if not distributed.
        world_size: Number of ranks.
        length: Samples of an epoch, where ``kind`` decides that.
    """

    kind: Any
    indices: np.ndarray[Any, Any]
    seed: int
    batch_size: int
    drop_last: bool
    rank: int | None = None
    world_size: int = 1
    length: int | None = None

    @property
    def count(self) -> int:
        """Samples of this rank in an epoch, before any is dropped."""
        if self.length is not None:
            return self.length
        return len(self.indices) if self.rank is None else math.ceil(len(self.indices) / self.world_size)

    @property
    def dropped(self) -> int:
        """Samples of this rank that each epoch leaves out."""
        return self.count % self.batch_size if self.drop_last else 0

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    @property
    def name(self) -> str:
        """What the order is called."""
        if isinstance(self.kind, str):
            return self.kind
        return (self.kind if isinstance(self.kind, type) else type(self.kind)).__name__

    def samples(self, epoch: int, beton: Beton) -> np.ndarray[Any, Any]:
        """The samples of an epoch in their order."""
        return self.everything(epoch, beton)[: len(self) * self.batch_size]

    def everything(self, epoch: int, beton: Beton) -> np.ndarray[Any, Any]:
        """The samples of an epoch in their order, with those that drop_last leaves out."""
        if not isinstance(self.kind, str):
            return np.asarray(self.as_ffcv(beton).sample_order(epoch))
        if self.kind == "QUASI_RANDOM":
            return self._quasi_random(epoch, beton)
        if self.rank is not None:
            from torch.utils.data import DistributedSampler

            sampler: Any = DistributedSampler(
                self.indices, num_replicas=self.world_size, rank=self.rank,  # type: ignore[arg-type]
                shuffle=self.kind == "RANDOM", seed=self.seed, drop_last=False,
            )  # fmt: skip
            sampler.set_epoch(epoch)
            dealt: np.ndarray[Any, Any] = self.indices[np.array(list(sampler))]
            return dealt
        if self.kind == "RANDOM":
            return np.random.default_rng(self.seed + epoch).permutation(self.indices)
        return self.indices

    def _quasi_random(self, epoch: int, beton: Beton) -> np.ndarray[Any, Any]:
        from ffcv.traversal_order import QuasiRandom

        return np.asarray(QuasiRandom(self._as_loader(beton)).sample_order(epoch))

    def as_ffcv(self, beton: Beton) -> Any:
        """An object of FFCV's with this order."""
        if isinstance(self.kind, str):
            return SimpleNamespace(sample_order=lambda epoch: self.everything(epoch, beton))
        if isinstance(self.kind, type):
            return self.kind(self._as_loader(beton))
        order = copy.copy(self.kind)
        order.loader = self._as_loader(beton)
        return order

    def _as_loader(self, beton: Beton) -> Any:
        """What FFCV's orders look at."""
        return SimpleNamespace(
            indices=self.indices,
            seed=self.seed,
            distributed=self.rank is not None,
            batch_size=self.batch_size,
            memory_manager=SimpleNamespace(page_to_samples=beton.page_to_samples()),
            reader=beton,
        )


def mixed(seed: int, epoch: int, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One 32-bit key a number, as well spread as splitmix64 spreads them (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        seed: Seed of the loader.
        epoch: Epoch.
        numbers: Sample indices, or a batch number.

    Returns:
        Keys as uint64 below 2**32, of the same shape.
    """
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03) % 2**64)
        for _ in range(2):
            z = mix_words(z + np.uint64(0x9E3779B97F4A7C15))
    keys: np.ndarray[Any, Any] = z >> np.uint64(32)
    return keys
