"""What a loader's state costs: arms that differ in one thing, epochs alternating in one process."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.throughput import epoch
from benchmarks.speed.workloads import Rows

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

ARMS = ("plain", "stateful", "each step", "sample_rng")
_BATCH = 64
_STATE = 10_000_000  # bytes


class StatefulRows(Rows):
    """Rows with ten megabytes of state, as a shuffle buffer has."""

    buffer: bytearray | None = None

    def _held(self) -> bytearray:
        if self.buffer is None:
            self.buffer = bytearray(_STATE)
        return self.buffer

    def state_dict(self) -> dict[str, Any]:
        """A copy of the buffer."""
        return {"buffer": bytes(self._held())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""
        self.buffer = bytearray(state["buffer"])


def build(arm: str, length: int, shape: tuple[int, ...]) -> DataLoader[Any]:
    """The loader of one arm: two persistent workers."""
    import safeloader

    kind = StatefulRows if arm in ("stateful", "each step") else Rows
    length = length // 10 if arm == "each step" else length  # it is that slow
    return safeloader.DataLoader(
        kind(length, shape, "uint8"), _BATCH, num_workers=2, persistent_workers=True,
        snapshot_every_n_steps=1 if arm == "each step" else None,
        policy=safeloader.Policy(sample_rng=arm == "sample_rng"),
    )  # fmt: skip


def measure(repeats: int, batches: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """Batches per second of each arm, and milliseconds of one ``state_dict()`` in mid-epoch."""
    arms = {arm: build(arm, batches * _BATCH, shape) for arm in ARMS}
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for loader in arms.values():
        epoch(loader, read=False)
    for repeat in range(repeats):
        for arm in ARMS if repeat % 2 == 0 else reversed(ARMS):
            seconds, count = epoch(arms[arm], read=False)
            rates[arm].append(count / seconds)
    asked = {arm: _asking(loader) for arm, loader in arms.items()}
    for loader in arms.values():
        loaders.close(loader)
    return {"rates": rates, "asked": asked}


def _asking(loader: Any) -> float:
    took = []
    for number, _ in enumerate(loader):
        if number % 10 == 9:
            began = time.perf_counter()
            loader.state_dict()
            took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def main() -> None:
    """Measure as the command line says and print the result as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224, help="height and width of a picture")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    child.tell(**measure(asked.repeats, asked.batches, (3, asked.size, asked.size)))


if __name__ == "__main__":
    main()
