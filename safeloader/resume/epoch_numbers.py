"""The numbers of epochs: samplers and datasets are told them, and who was not told is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import DistributedSampler

from safeloader import torch_private
from safeloader.codes import warn
from safeloader.distributed import ElasticDistributedSampler
from safeloader.resume.sampler_state import chain_of
from safeloader.runtime.child import sample_rng

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["EpochWatch", "tell_epoch"]


def tell_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Tell samplers and dataset the number of the next epoch."""
    for sampler in chain_of(torch_private.index_sampler(loader)):
        if callable(getattr(sampler, "set_epoch", None)):
            sampler.set_epoch(epoch)
    sample_rng.tell_epoch(loader.dataset, epoch)


class EpochWatch:
    """Notices a distributed sampler of one loader that shuffles each epoch alike."""

    def __init__(self) -> None:
        self._seen: int | None = None
        self._warned = False

    def look(self, loader: DataLoader[Any], name: str, stacklevel: int) -> None:
        """An epoch begins. The second of the same number is warned of, once."""
        for sampler in chain_of(torch_private.index_sampler(loader)):
            if isinstance(sampler, (DistributedSampler, ElasticDistributedSampler)) and sampler.shuffle:
                known, self._seen = self._seen, sampler.epoch
                if known == sampler.epoch and not self._warned:
                    self._warned = True
                    warn(
                        "SL105",
                        f"{name}: a second epoch begins, and nobody has called set_epoch: the DistributedSampler gives "
                        "the same order again. Call loader.set_epoch(epoch) before each epoch",
                        stacklevel=stacklevel + 1,
                    )
