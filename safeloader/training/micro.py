"""The batches that make one step: where gradients are accumulated, which of them brought a NaN first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safeloader import torch_private

if TYPE_CHECKING:
    import torch

    from safeloader.training.watched import Watched

__all__ = ["Micro", "blamed", "probe", "told_by"]

_FEW, _SMALL = 8, 1 << 16


@dataclass
class Micro:
    """A batch of the step.

    Attributes:
        number: Its number, or None.
        indices: Its samples, where they are known.
        norms: Norms of some gradients after it, on their device; empty before another batch came.
        on_device: The batch itself, where it lies on an accelerator and was not looked at.
    """

    number: int | None
    indices: list[Any] | None
    norms: list[torch.Tensor] = field(default_factory=list)
    on_device: Any = None


def probe(watched: Watched) -> list[torch.Tensor]:
    """Norms of a few small gradients as they are now. Nothing waits for an accelerator."""
    small = sorted((g for _, g in watched.gradients() if g.numel() <= _SMALL), key=lambda g: g.numel())[:_FEW]
    try:
        return torch_private.norms([gradient.detach() for gradient in small]) if small else []
    except (RuntimeError, NotImplementedError):  # sparse, sharded
        return []


def blamed(step: list[Micro]) -> tuple[int | None, list[Any] | None, str]:
    """(number, indices, words) of a step's batches; the first that is known to be bad comes first."""
    if not step:
        return None, None, ""
    if len(step) == 1:
        return step[0].number, step[0].indices, ""
    first = next((n for n, one in enumerate(step) if not all(math.isfinite(float(v)) for v in one.norms)), None)
    order = step if first is None else [step[first], *step[:first], *step[first + 1 :]]
    indices = None if any(one.indices is None for one in order) else [i for one in order for i in one.indices or ()]
    seen = "" if first is None else f", first seen after batch {step[first].number}"
    return order[0].number, indices, f" in a step of {len(step)} batches{seen},"


def told_by(loader: Any) -> tuple[int, list[Any]] | None:
    """(number, dataset indices) of the batch that a safeloader.DataLoader gave last, if it can tell."""
    recent = getattr(loader, "recent_batches", None)
    batches = recent() if callable(recent) else []
    if not batches or batches[-1].indices is None:
        return None
    return batches[-1].batch, batches[-1].indices
