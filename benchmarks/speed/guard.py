"""Seconds of a small CNN's training step on the CPU, with and without a FiniteGuard, by turns."""

from __future__ import annotations

import argparse
import random
import statistics
from time import perf_counter as now

import torch
from torch import nn

from benchmarks.speed import child
from safeloader.training import FiniteGuard

IN_A_ROW = 10  # steps of one arm: alone among others, a step's code would have left the caches


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

    def step(guarded: bool) -> tuple[float, float]:
        started = now()
        images, labels = guard.batch(batch) if guarded else batch
        looked = now() - started
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        asked_at = now()
        allowed = not guarded or guard.allows_step(loss)
        looked += now() - asked_at
        if allowed:
            optimizer.step()
        return now() - started, looked

    arms: dict[str, list[float]] = {"without": [], "again": [], "with": [], "calls": []}
    turns = random.Random(0)
    for number in range(asked.repeats + 1):
        steps: dict[str, list[tuple[float, float]]] = {"without": [], "again": [], "with": []}
        for _ in range(asked.steps // IN_A_ROW):
            for arm in turns.sample(list(steps), len(steps)):
                steps[arm] += [step(arm == "with") for _ in range(IN_A_ROW)]
        if number == 0:
            continue  # the first round warms up
        for arm, seconds in steps.items():
            arms[arm].append(statistics.median(whole for whole, _ in seconds))
        arms["calls"].append(statistics.median(looked for _, looked in steps["with"]))
    child.tell(**arms)


if __name__ == "__main__":
    main()
