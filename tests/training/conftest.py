"""Small real runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from safeloader.training import CheckpointStore


class Run:
    """A model with running statistics, an optimizer with moments, a scheduler: what a real run has to save."""

    def __init__(
        self, seed: int = 0, width: int = 8, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    ) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1))
        self.optimizer = optimizer(self.model.parameters(), lr=0.01)  # type: ignore[call-arg]
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.05, total_steps=200)

    def train(self, steps: int) -> list[float]:
        """Steps on data that depend on all three generators."""
        losses = []
        for _ in range(steps):
            inputs = torch.randn(8, 4) + random.random() + float(np.random.rand())
            loss = self.model(inputs).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            losses.append(loss.item())
        return losses

    @property
    def parts(self) -> dict[str, Any]:
        """What is saved and resumed."""
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def weights(self) -> list[bytes]:
        """All of the model, to the byte."""
        return [tensor.numpy().tobytes() for tensor in self.model.state_dict().values()]


@pytest.fixture
def run() -> Run:
    """A run that has made some steps."""
    fresh = Run()
    fresh.train(3)
    return fresh


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """An empty store."""
    return CheckpointStore(tmp_path / "checkpoints", run="a")
