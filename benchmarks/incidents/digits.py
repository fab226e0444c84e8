"""Handwritten digits, shipped inside scikit-learn, and a network for them."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Iterable

TRAIN = 1_400
CLASSES = 10


class Digits(Dataset[Any]):
    """Pictures of 8 × 8 pixels, and which digit each shows.

    Args:
        part: ``"train"`` or ``"val"``: they share no picture.
        noisy: add noise to each picture, from torch's generator.
    """

    def __init__(self, part: str, noisy: bool = False) -> None:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        pictures, labels = load_digits(return_X_y=True)
        which = slice(None, TRAIN) if part == "train" else slice(TRAIN, None)
        self.pictures = torch.tensor(pictures[which] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        self.labels = torch.tensor(labels[which])
        self.noisy = noisy

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        picture = self.pictures[index]
        if self.noisy:
            picture = picture + 0.1 * torch.randn(picture.shape)
        return picture, self.labels[index]


def network() -> nn.Sequential:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 4 * 4, CLASSES),
    )  # fmt: skip


def seed_everything(seed: int = 0) -> None:
    """Seed all generators of the main process, and compute alike on every run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


def train(model: nn.Module, batches: Iterable[Any], optimizer: torch.optim.Optimizer) -> float:
    """One pass; returns the mean loss."""
    model.train()
    losses = []
    for pictures, labels in batches:
        loss = nn.functional.cross_entropy(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[Any]) -> float:
    """Share of pictures that are told right."""
    model.eval()
    right = seen = 0
    for pictures, labels in batches:
        right += int((model(pictures).argmax(1) == labels).sum())
        seen += len(labels)
    return right / seen


def digest(model: nn.Module) -> str:
    """A fingerprint of the weights, to the byte."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()[:16]
