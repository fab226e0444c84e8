"""Batches of two sizes that cost nothing to load, so that only the way counts."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["KINDS", "Made"]

KINDS = {"9.6 MB": (16, (3, 224, 224)), "32 × 8 floats": (32, (8,))}
"""Samples of a batch, and the shape of one."""


class Made(torch.utils.data.Dataset[torch.Tensor]):
    """The same sample again and again.

    Args:
        count: how many.
        shape: of one.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self._count = count
        self._sample = torch.ones(shape)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._sample
