"""Images that became float32 before they had to: the same samples with uint8 images, for comparison."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

__all__ = ["Narrow", "narrowed"]

_IMAGE = 1024
"""Elements that a tensor of more than one dimension has at least, to be taken for an image."""


class Narrow(NamedTuple):
    """A batch whose float32 tensors are uint8 instead.

    Attributes:
        seconds: to collate and send it.
        nbytes: bytes of it in shared memory.
    """

    seconds: float
    nbytes: int


def narrowed(batch: Any, decoded: bool) -> Any | None:
    """The samples of a batch with uint8 in place of float32 images; None if none of them could as well be that.

    Args:
        batch: the samples.
        decoded: they opened images, so theirs were bytes once; else each value has to be one, or one divided by 255.
    """
    images: list[torch.Tensor] = []
    made = _map(batch, images)
    return made if images and (decoded or all(map(_of_bytes, images))) else None


def _map(value: Any, images: list[torch.Tensor]) -> Any:
    if type(value) is torch.Tensor and value.dtype is torch.float32 and value.ndim > 1 and value.numel() >= _IMAGE:
        images.append(value)
        return torch.zeros(value.shape, dtype=torch.uint8)
    if type(value) in (list, tuple):
        return type(value)(_map(part, images) for part in value)
    return {key: _map(part, images) for key, part in value.items()} if type(value) is dict else value


def _of_bytes(image: torch.Tensor) -> bool:
    top = float(image.max())
    if top > 255 or float(image.min()) < 0:
        return False
    scaled = image if top > 1 else image * 255
    return bool(torch.allclose(scaled, scaled.round(), rtol=0, atol=1e-3))
