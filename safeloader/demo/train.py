"""One training run in a program of its own; it tells what happens in lines of JSON on its standard output.

``python -m safeloader.demo.train LOADER EPOCHS FAULTS NOTES``, with LOADER ``torch`` or ``safeloader``, and FAULTS as
``kill:1:5,hang:2:3``: kind, epoch from 1, after that many batches.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import random
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.data
from torch import nn

from safeloader.demo.pictures import Shapes, network

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

SEED = 20240229
SAMPLES, BATCH = 320, 16
BATCH_TIMEOUT = 3.0  # seconds; short, since a sample here takes milliseconds


def tell(kind: str, **facts: Any) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps({"kind": kind, "at": monotonic(), **facts}) + "\n")
    sys.stdout.flush()


def build(kind: str, notes: Path) -> DataLoader[Any]:
    """The loader: the same arguments for both kinds."""
    arguments: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "num_workers": 2, "persistent_workers": True}
    arguments["multiprocessing_context"] = "spawn"
    dataset = Shapes(SAMPLES, notes)
    if kind == "torch":
        return torch.utils.data.DataLoader(dataset, **arguments)
    import safeloader

    policy = safeloader.Policy(batch_timeout=BATCH_TIMEOUT)
    return safeloader.DataLoader(dataset, policy=policy, name="train", **arguments)


def digest(*parts: Any) -> str:
    """The SHA-256 of arrays and bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


class Training:
    """The loop: batches in, weights out, faults at their places.

    Args:
        loader: gives the batches.
        faults: what is to happen after which batch of which epoch.
        notes: the folder that the dataset looks into.
    """

    def __init__(self, loader: DataLoader[Any], faults: dict[tuple[int, int], str], notes: Path) -> None:
        self.loader, self.faults, self.notes = loader, faults, notes
        self.model = network()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.batches = hashlib.sha256()

    def run(self, epochs: int) -> None:
        """All epochs."""
        for epoch in range(1, epochs + 1):
            hits = seen = 0
            for number, (pictures, labels) in enumerate(self.loader, start=1):
                self.batches.update(pictures.numpy())
                self.batches.update(labels.numpy())
                hits, seen = hits + self._step(pictures, labels), seen + len(labels)
                tell("batch", epoch=epoch, batch=number, accuracy=hits / seen)
                if fault := self.faults.get((epoch, number)):
                    tell("fault", fault=fault)
                    (self.notes / fault).touch()

    def _step(self, pictures: torch.Tensor, labels: torch.Tensor) -> int:
        scores = self.model(pictures)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return int((scores.argmax(1) == labels).sum())

    def digests(self) -> dict[str, str]:
        """What must be equal in the end."""
        weights = [value.contiguous().numpy() for _, value in sorted(self.model.state_dict().items())]
        state = (random.getstate(), np.random.get_state(), torch.get_rng_state().numpy().tobytes())
        return {
            "batches": self.batches.hexdigest(),
            "weights": digest(*weights),
            "generators": digest(pickle.dumps(state)),
        }


def main() -> None:
    """Train as the command line says."""
    kind, epochs, planned, notes = sys.argv[1:5]
    faults: dict[tuple[int, int], str] = {}
    for one in filter(None, planned.split(",")):
        fault, epoch, after = one.split(":")
        faults[int(epoch), int(after)] = fault
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the other core belongs to the workers
    training = Training(build(kind, Path(notes)), faults, Path(notes))
    tell("begins", due=int(epochs) * len(training.loader))
    try:
        training.run(int(epochs))
    except Exception as error:
        tell("ends", error=f"{type(error).__name__}: {error}")
    else:
        report = training.loader.report().to_dict() if kind == "safeloader" else None  # type: ignore[attr-defined]
        tell("ends", error=None, digests=training.digests(), report=report)


if __name__ == "__main__":
    main()
