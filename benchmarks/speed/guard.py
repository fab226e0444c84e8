"""Seconds of a training step on the CPU, with and without a FiniteGuard, by turns: a small CNN, and a large MLP."""

from __future__ import annotations

import argparse
import random
import statistics
from itertools import pairwise
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


def large() -> nn.Module:
    """Four layers, 42 million parameters: at batch 4 a step does little more than read and write them."""
    widths = (1024, 4096, 4096, 4096, 1024)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def main() -> None:
    """Print the medians of as many rounds as asked for, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--net", choices=("cnn", "mlp"), default="cnn")
    asked = parser.parse_args()
    torch.manual_seed(0)
    model, criterion = network() if asked.net == "cnn" else large(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    guards = {"with": FiniteGuard(model), "whole": FiniteGuard(model, large_every=1)}
    batch = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    if asked.net == "mlp":
        batch = torch.randn(4, 1024), torch.randint(0, 1024, (4,))

    def step(arm: str) -> tuple[float, float]:
        guard = guards.get(arm)
        started = now()
        images, labels = guard.batch(batch) if guard else batch
        looked = now() - started
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        asked_at = now()
        allowed = guard is None or guard.allows_step(loss)
        looked += now() - asked_at
        if allowed:
            optimizer.step()
        return now() - started, looked

    names = ("without", "again", "with", "whole")
    arms: dict[str, list[float]] = {arm: [] for arm in (*names, *(f"calls of {arm}" for arm in guards))}
    turns = random.Random(0)
    for number in range(asked.repeats + 1):
        steps: dict[str, list[tuple[float, float]]] = {arm: [] for arm in names}
        for _ in range(asked.steps // IN_A_ROW):
            for arm in turns.sample(list(steps), len(steps)):
                steps[arm] += [step(arm) for _ in range(IN_A_ROW)]
        if number == 0:
            continue  # the first round warms up
        for arm, seconds in steps.items():
            arms[arm].append(statistics.median(whole - looked for whole, looked in seconds))
        for arm in guards:  # a mean: every thirty-second look at a large model takes longer by design
            arms[f"calls of {arm}"].append(statistics.fmean(looked for _, looked in steps[arm]))
    child.tell(**arms)


if __name__ == "__main__":
    main()
