"""One training run in a program of its own: ``python -m benchmarks.demo.train --loader safeloader ...``."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import pickle
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.data
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from benchmarks.demo.chaos import PLAN, Chaos
from benchmarks.demo.dataset import Photographs
from benchmarks.demo.model import network

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.utils.data import DataLoader

SEED = 20240229
BATCH_TIMEOUT = 3.0  # seconds; short, because the demo's samples take milliseconds


def seed_everything(seed: int) -> None:
    """Seed the three generators of the main process, and let torch compute the same on every run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the other core belongs to the workers


def build_loader(kind: str, dataset: Photographs, phase: str, batch_size: int) -> DataLoader[Any]:
    """A loader with two spawned, persistent workers.

    Args:
        kind: "torch" or "safeloader".
        dataset: What it loads.
        phase: "train" (shuffled) or "val".
        batch_size: Samples in a batch.
    """
    arguments: dict[str, Any] = {
        "batch_size": batch_size,
        "shuffle": phase == "train",
        "drop_last": phase == "train",
        "num_workers": 2,
        "persistent_workers": True,
        "multiprocessing_context": "spawn",
    }
    if kind == "torch":
        return torch.utils.data.DataLoader(dataset, **arguments)
    import safeloader

    policy = safeloader.Policy(batch_timeout=BATCH_TIMEOUT, recover_after=20)
    return safeloader.DataLoader(dataset, **arguments, policy=policy, name=phase)


@dataclass
class Record:
    """What is kept of a run.

    Attributes:
        batches: One row a batch: seconds since the start, seconds waited for it, epoch, phase, number.
        epochs: One row a phase: epoch, phase, mean loss, accuracy.
        digest: Runs over every batch that was delivered.
    """

    batches: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)


class Training:
    """A training loop: train -> val -> train -> val, with progress bars and a record of every batch."""

    def __init__(
        self,
        loaders: dict[str, DataLoader[Any]],
        classes: int,
        between_batches: Callable[[int, str, int], None],
    ) -> None:
        self.loaders = loaders
        self.model = network(classes)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3, weight_decay=1e-2)
        self.loss = nn.CrossEntropyLoss()
        self.between_batches = between_batches
        self.record = Record()
        self.begun = time.monotonic()

    def run(self, epochs: int) -> None:
        """Train and validate for a number of epochs."""
        for epoch in range(1, epochs + 1):
            for phase in ("train", "val"):
                self._phase(epoch, epochs, phase)

    def _phase(self, epoch: int, epochs: int, phase: str) -> None:
        self.model.train(phase == "train")
        self.between_batches(epoch, phase, 0)
        loader = self.loaders[phase]
        loss = correct = seen = 0.0
        bar = tqdm(
            total=len(loader),
            desc=f"{phase:>5} {epoch}/{epochs}",
            unit="batch",
            mininterval=0.1 if sys.stderr.isatty() else 60,
            ncols=100,
        )
        asked = time.monotonic()
        for number, (images, labels) in enumerate(loader, start=1):
            self._note(asked, epoch, phase, number, images, labels)
            step_loss, hits = self._step(images, labels, learn=phase == "train")
            loss, correct, seen = loss + step_loss * len(labels), correct + hits, seen + len(labels)
            bar.update()
            bar.set_postfix(loss=f"{loss / seen:.3f}", accuracy=f"{correct / seen:.1%}", refresh=False)
            self.between_batches(epoch, phase, number)
            asked = time.monotonic()
        bar.close()
        self.record.epochs.append(
            {"epoch": epoch, "phase": phase, "loss": loss / seen, "accuracy": correct / seen, "samples": seen}
        )

    def _note(self, asked: float, epoch: int, phase: str, number: int, images: Tensor, labels: Tensor) -> None:
        now = time.monotonic()
        self.record.batches.append(
            {"at": now - self.begun, "waited": now - asked, "epoch": epoch, "phase": phase, "batch": number}
        )
        self.record.digest.update(images.numpy())
        self.record.digest.update(labels.numpy())

    def _step(self, images: Tensor, labels: Tensor, learn: bool) -> tuple[float, int]:
        with torch.set_grad_enabled(learn):
            scores = self.model(images)
            loss = self.loss(scores, labels)
        if learn:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item(), int((scores.argmax(1) == labels).sum())

    def weights(self) -> str:
        """The SHA-256 of all weights and buffers."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()


def generators() -> str:
    """The SHA-256 of the states of the main process's three generators."""
    state = (random.getstate(), np.random.get_state(), torch.get_rng_state().numpy().tobytes())
    return hashlib.sha256(pickle.dumps(state)).hexdigest()


def one_run(kind: str, photographs: Path, epochs: int, batch_size: int, chaos: bool, notes: Path) -> dict[str, Any]:
    """Train once.

    Args:
        kind: "torch" or "safeloader".
        photographs: The folder with the crops.
        epochs: How many.
        batch_size: Samples in a batch.
        chaos: Whether the workers are shot at.
        notes: An empty folder.

    Returns:
        Everything that is compared and plotted.
    """
    seed_everything(SEED)
    folders = {phase: notes / phase for phase in ("train", "val")}
    for folder in folders.values():
        folder.mkdir()
    datasets = {phase: Photographs(photographs / phase, phase == "train", folders[phase]) for phase in folders}
    loaders = {phase: build_loader(kind, dataset, phase, batch_size) for phase, dataset in datasets.items()}
    classes = len({path.name[:2] for path in datasets["train"].files})
    strikes = Chaos(PLAN if chaos else (), folders, tqdm.write)
    training = Training(loaders, classes, strikes.between_batches)
    outcome = "finished"
    try:
        training.run(epochs)
    except Exception as problem:
        outcome = f"{type(problem).__name__}: {problem}"
    ended = time.monotonic() - training.begun
    struck = [{**strike, "at": strike["at"] - training.begun} for strike in strikes.struck]
    return {
        "loader": kind,
        "chaos": chaos,
        "outcome": outcome,
        "seconds": ended,
        "due": epochs * sum(map(len, loaders.values())),
        "batches": training.record.batches,
        "epochs": training.record.epochs,
        "struck": struck,
        "reports": {phase: loader.report().to_dict() for phase, loader in loaders.items() if hasattr(loader, "report")},
        "digests": {
            "batches": training.record.digest.hexdigest(),
            "weights": training.weights(),
            "generators": generators(),
        },
    }


def main() -> None:
    """Train as the command line says and write the record as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loader", choices=["torch", "safeloader"], required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--chaos", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    asked = parser.parse_args()
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="safeloader-demo-") as notes, logging_redirect_tqdm():
        result = one_run(asked.loader, asked.photographs, asked.epochs, asked.batch_size, asked.chaos, Path(notes))
        asked.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
