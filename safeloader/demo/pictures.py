"""Pictures made in place, a small network that tells them apart, and the faults that the dataset makes on request."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["FAULTS", "Shapes", "network"]

FAULTS = ("kill", "hang", "stop")
SIZE = 64  # pixels of a side
SHAPES = 4  # discs, squares, rings, crosses
_DETAIL = 3  # the picture is drawn so many times larger, then averaged


class Shapes(Dataset["tuple[Tensor, int]"]):
    """Noisy pictures of a shape each; where it lies and how it looks is drawn with all three of a worker's generators.

    Args:
        length: Number of samples.
        notes: A folder. A file there that is called as one of `FAULTS` happens to the process that loads the next
            sample, once.
    """

    def __init__(self, length: int, notes: Path) -> None:
        self.length = length
        self.notes = str(notes)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self._suffer()
        label = index % SHAPES
        angle, scale = random.uniform(0, math.pi / 2), random.uniform(0.35, 0.7)
        across, down = np.random.uniform(-0.25, 0.25, 2)
        shape = _shape(label, angle, scale, float(across), float(down))
        colour = torch.rand(3, 1, 1) * 0.6 + 0.4
        picture = shape * colour + torch.randn(3, SIZE, SIZE) * 0.25
        return picture.clamp(0, 1), label

    def _suffer(self) -> None:
        for fault in FAULTS:
            try:
                os.unlink(os.path.join(self.notes, fault))
            except FileNotFoundError:
                continue
            if fault == "hang":
                while True:
                    time.sleep(3600)
            os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)


def _shape(label: int, angle: float, scale: float, across: float, down: float) -> Tensor:
    """A white shape on black, with smooth edges."""
    line = torch.linspace(-1, 1, SIZE * _DETAIL)
    y, x = torch.meshgrid(line - down, line - across, indexing="ij")
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    far = torch.sqrt(u * u + v * v)
    if label == 0:
        inside = far < scale
    elif label == 1:
        inside = torch.maximum(u.abs(), v.abs()) < scale * 0.85
    elif label == 2:
        inside = (far < scale) & (far > scale * 0.6)
    else:
        inside = (torch.minimum(u.abs(), v.abs()) < scale * 0.25) & (torch.maximum(u.abs(), v.abs()) < scale)
    return nn.functional.avg_pool2d(inside.float()[None, None], _DETAIL)[0]


def network() -> nn.Sequential:
    """Three strided convolutions and a linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (12, 24, 48):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(channels * 4, SHAPES))
