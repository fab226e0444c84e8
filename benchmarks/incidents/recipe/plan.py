"""What is trained for how long, and how fast: plain numbers and pure functions."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = 256
"""The batch that a base rate is given for."""


@dataclass(frozen=True)
class Plan:
    """The numbers of a run.

    Attributes:
        run: Its name; its checkpoints bear it.
        epochs: Passes over the training file.
        batch: Samples of one rank in one step.
        base_rate: Highest learning rate at a batch of 256.
        warm_up: Epochs in which the rate rises.
        decay: Share of the average that stays at each step.
        sizes: ``(first epoch, pixels)``.
        validation_size: Pixels.
        seed: Of weights, order and augmentation; the same on all ranks.
    """

    run: str = "photographs"
    epochs: int = 8
    batch: int = 8
    base_rate: float = 6.4
    warm_up: int = 2
    decay: float = 0.95
    sizes: tuple[tuple[int, int], ...] = ((0, 32), (3, 40), (6, 48))
    validation_size: int = 48
    seed: int = 0


def square_root(base_rate: float, batch: int) -> float:
    """What was recommended once. Where it differs from linear by a factor of 4, it was 3.2 in place of 0.8."""
    return base_rate * float((batch / REFERENCE) ** 0.5)
