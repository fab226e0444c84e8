"""The quick look of a step: what is finite in all that training changes, and what that look may cost.

Reading all gradients and weights takes a sixth to a half of a step that does little with them (a large layer, a small
batch). Large tensors are therefore read whole only now and then, and in the steps between along one index of each long
dimension, another one each time. What backward makes not finite in the gradient of a matrix product, a NaN in one of
its two factors, fills a whole row or column of it, and is seen there at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safeloader.training.scan import dense, norms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

__all__ = ["Glance", "glance", "is_large"]

_MODEL = 1 << 20  # numbers in a model that is always read whole: a millisecond
_TENSOR = 1 << 14  # and in a tensor of any model
_LONG = 64


@dataclass
class Glance:
    """What a step looks at.

    Attributes:
        parts: Tensors, or rows and columns of them.
        names: For each: ``"gradients"``, ``"weights"`` or ``"loss"``, and its name.
        gradients: How many of the parts, from the first on, are of gradients.
        whole: Whether all gradients are among them, whole: then their norm can be told.
    """

    parts: list[torch.Tensor]
    names: list[tuple[str, str]]
    gradients: int
    whole: bool

    def norms(self) -> list[float]:
        """The norm of each part. An accelerator is waited for."""
        return norms(self.parts)

    def norm_of_gradients(self, values: list[float]) -> float:
        """The 2-norm of all gradients, out of the norms of the parts."""
        return math.hypot(*values[: self.gradients])


def is_large(parameters: Sequence[tuple[str, torch.Tensor]]) -> bool:
    """Whether a model is too large to be read whole at each step."""
    return sum([parameter.numel() for _, parameter in parameters]) > _MODEL


def glance(
    gradients: Sequence[tuple[str, torch.Tensor]], weights: Sequence[tuple[str, torch.Tensor]],
    loss: torch.Tensor | None, step: int, whole: tuple[bool, bool],
) -> Glance:  # fmt: skip
    """Choose what a step looks at.

    Args:
        gradients: By name.
        weights: Weights and buffers, by name.
        loss: The loss, if it is known.
        step: Which row and column of large tensors.
        whole: Read large gradients, and large weights, whole.
    """
    gradients = gradients if whole[0] else _along_each(gradients, step)
    weights = weights if whole[1] else _along_each(weights, step)
    parts = [tensor for _, tensor in gradients] + [tensor for _, tensor in weights]
    names = [("gradients", name) for name, _ in gradients] + [("weights", name) for name, _ in weights]
    if loss is not None:
        parts.append(loss)
        names.append(("loss", "loss"))
    return Glance(parts, names, len(gradients), whole[0])


def _along_each(named: Iterable[tuple[str, torch.Tensor]], step: int) -> list[tuple[str, torch.Tensor]]:
    return [(name, part) for name, tensor in named for part in _along(tensor, step)]


def _along(tensor: torch.Tensor, step: int) -> list[torch.Tensor]:
    """All of a small tensor; of a large one, what lies at one index of each long dimension."""
    if tensor.numel() <= _TENSOR:
        return [tensor]
    tensor = dense(tensor.detach())
    long = [dim for dim in range(tensor.dim()) if tensor.size(dim) >= _LONG]
    if len(long) < 2:  # any of them is a good part of it
        return [tensor]
    return [tensor.select(dim, step % tensor.size(dim)) for dim in long]
