"""A dataset whose worker is killed once, for programs that know nothing of safeloader."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info


class Killing(Dataset[Any]):
    """Regression samples; loading sample ``bad`` kills the worker, the first time.

    Args:
        folder: where it is remembered that it happened.
        bad: index of that sample; None for none.
        as_dict: samples are dicts, as Hugging Face's models take them.
    """

    def __init__(self, folder: Path | str, bad: int | None = 13, length: int = 32, as_dict: bool = False) -> None:
        self.done = str(Path(folder) / f"killed-{bad}")
        self.bad, self.length, self.as_dict = bad, length, as_dict

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index == self.bad and get_worker_info() is not None and not os.path.exists(self.done):
            Path(self.done).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.full((3,), float(index)) + torch.rand(3)
        return {"x": x, "labels": x.sum()} if self.as_dict else (x, x.sum())

    @property
    def killed(self) -> bool:
        """True once it happened."""
        return os.path.exists(self.done)
