"""What every peer is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["WORKERS", "Job"]

WORKERS = 2


@dataclass(frozen=True)
class Job:
    """What is loaded. Called with a batch's number it loads that batch: what executors are given."""

    dataset: Any
    collate: Any
    batch: int
    deadline: float = 120.0  # safeloader's default

    def __call__(self, number: int) -> Any:
        """The batch with this number."""
        start = number * self.batch
        return self.collate([self.dataset[i] for i in range(start, start + self.batch)])

    @property
    def batches(self) -> int:
        """How many there are."""
        return len(self.dataset) // self.batch
