"""Seconds of a small CNN's training step on the CPU, with and without a FiniteGuard, step by step in turn."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from benchmarks.speed import child
from safeloader.training import FiniteGuard


def network() -> nn.Module:
    """Three convolutions, two batch norms, 95,000 parameters."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers)


def main() -> None:
    """Print the medians of as many rounds as asked for, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    asked = parser.parse_args()
    torch.manual_seed(0)
    model, criterion = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    guard = FiniteGuard(model)
    batch = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))

    def step(guarded: bool) -> float:
        started = time.perf_counter()
        images, labels = guard.batch(batch) if guarded else batch
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        if not guarded or guard.allows_step(loss):
            optimizer.step()
        return time.perf_counter() - started

    for _ in range(10):
        step(False), step(True)
    arms: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(asked.repeats):
        pairs = [(step(False), step(True)) for _ in range(asked.steps)]
        for name, seconds in zip(arms, zip(*pairs, strict=True), strict=True):
            arms[name].append(statistics.median(seconds))
    alone = []
    loss = criterion(model(batch[0]), batch[1])
    for _ in range(asked.steps):
        started = time.perf_counter()
        guard.batch(batch)
        guard.allows_step(loss)
        alone.append(time.perf_counter() - started)
    child.tell(**arms, alone=statistics.median(alone))


if __name__ == "__main__":
    main()
