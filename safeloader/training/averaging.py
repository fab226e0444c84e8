"""The exponential average of a model's weights and buffers, right on all ranks; whether ranks hold the same model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from safeloader.training.collectives import everyones, world_size

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Average", "disagreement", "fingerprint", "linear_scaling"]


class Average(AveragedModel):
    """An average of parameters *and* buffers, which each rank keeps: ``update_parameters(model)`` on all of them.

    DistributedDataParallel keeps the weights equal on all ranks, but not the running statistics of batch norm: each
    rank's come from its own samples. So the average of them differs, too, until ``settle`` is called.

    Args:
        model: The model without its wrapper.
        decay: Share of the average that stays at each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(model, multi_avg_fn=averaging, use_buffers=True)

    @torch.no_grad()
    def settle(self) -> None:
        """Average the buffers over the ranks. Before validation and before a checkpoint; all ranks call it."""
        for buffer in self.module.buffers():
            if buffer.is_floating_point() and world_size() > 1:
                dist.all_reduce(buffer)
                buffer /= world_size()


def disagreement(model: nn.Module) -> str:
    """Which rank holds another model than rank 0, in words; "" if none does. All ranks call it."""
    first, *others = everyones({name: _digest(value) for name, value in model.state_dict().items()})
    for rank, theirs in enumerate(others, start=1):
        apart = [name for name in {**first, **theirs} if theirs.get(name) != first.get(name)]
        if apart:
            return f"{len(apart)} of {len(first)} tensors of rank {rank} are not those of rank 0, such as {apart[0]}"
    return ""


def fingerprint(model: nn.Module) -> str:
    """A fingerprint of weights and buffers, to the byte.

    Args:
        model: any module.

    Returns:
        16 hexadecimal digits; equal for equal bytes.
    """
    return _digest(*model.state_dict().values())


def _digest(*values: torch.Tensor) -> str:
    found = hashlib.blake2b(digest_size=8)
    for value in values:
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def linear_scaling(base_rate: float, batch: int, reference: int = 256) -> float:
    """The learning rate for a batch of all ranks together: as many times higher as the batch is larger.

    Args:
        base_rate: The rate for a batch of `reference` samples.
        batch: Samples of all ranks in one step, accumulated ones included.
        reference: Samples that the base rate is given for.

    Raises:
        ValueError: A number is not above 0.
    """
    if base_rate <= 0 or batch <= 0 or reference <= 0:
        raise ValueError(f"base_rate={base_rate}, batch={batch}, reference={reference}: all are above 0")
    return base_rate * batch / reference
