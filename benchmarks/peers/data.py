"""The datasets of all peers, and the faults that strike in them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, default_collate

_ROWS = 128  # distinct samples


@dataclass(frozen=True)
class Workload:
    """What is loaded: ready samples, so that the loader is what takes time.

    Attributes:
        title: as in the table.
        batches: in an epoch, of 64 samples.
    """

    title: str
    batches: int


WORKLOADS = {
    "tiny": Workload("64 × 8 float32", 1500),
    "uint8": Workload("64 × 3×224×224 uint8", 250),
    "float32": Workload("64 × 3×224×224 float32", 80),
    "text": Workload("text, padded", 600),
    "nested": Workload("dict of 20 tensors", 400),
}
FAULTS = ("SIGKILL", "exit(0)", "SIGSTOP", "a sample hangs once")
BATCH = 64


class Samples(Dataset[Any]):
    """Samples of one workload."""

    def __init__(self, kind: str, length: int) -> None:
        self.kind, self.length = kind, length
        self._rows: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if self._rows is None:
            shape = (3, 224, 224) if self.kind in ("uint8", "float32") else (8,)
            rows = torch.randint(0, 256, (_ROWS, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            self._rows = rows if self.kind == "uint8" else rows.float()
        if self.kind == "text":
            return torch.arange(1 + index % 37), f"word {index % _ROWS} " * (index % 7 + 1)
        if self.kind == "nested":
            fields = {f"field {f}": self._rows[(index + f) % _ROWS, :4] for f in range(5)}
            return {f"group {g}": dict(fields) for g in range(4)}
        return self._rows[index % _ROWS]


def padded(samples: list[Any]) -> dict[str, Any]:
    """A batch of text, as programs collate it."""
    ids = pad_sequence([tokens for tokens, _ in samples], batch_first=True)
    return {"ids": ids, "mask": ids != 0, "text": [text for _, text in samples]}


def collate_of(kind: str) -> Any:
    """The collate function of a workload."""
    return padded if kind == "text" else default_collate


class Struck(Dataset[torch.Tensor]):
    """Numbers; while sample ``at`` is loaded for the first time, a fault strikes the process that loads it.

    Args:
        fault: one of `FAULTS`, or "" for none.
        folder: where it is noted that it has struck.
    """

    length, at = 240, 61

    def __init__(self, fault: str, folder: str) -> None:
        self.fault, self.noted = fault, str(Path(folder) / "struck")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.at and self.fault and self._first():
            self._strike()
        return torch.full((16,), index)

    def _first(self) -> bool:
        try:
            os.close(os.open(self.noted, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _strike(self) -> None:
        if self.fault == "exit(0)":
            os._exit(0)
        if self.fault == "a sample hangs once":
            time.sleep(1000)
        os.kill(os.getpid(), signal.SIGKILL if self.fault == "SIGKILL" else signal.SIGSTOP)
