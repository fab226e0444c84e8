"""Loaders for the doctor, made by functions, as it takes them."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset[Any]):
    """Rows of numbers; sample 5 takes its time, or never comes."""

    def __init__(self, slow: float = 0.0, held: Any = None, fails: bool = False) -> None:
        self.slow, self.held, self.fails = slow, held, fails

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5:
            time.sleep(self.slow)
            if self.fails:
                raise ValueError("row 5 is broken")
        return torch.full((16,), float(index))


def good() -> DataLoader[Any]:
    return DataLoader(Rows(), 8, num_workers=2)


def holds_what_cannot_be_sent() -> DataLoader[Any]:
    return DataLoader(Rows(held=(number for number in range(3))), 8, num_workers=2)


def forking() -> DataLoader[Any]:
    return DataLoader(Rows(), 8, num_workers=2, multiprocessing_context="fork")


def broken() -> DataLoader[Any]:
    return DataLoader(Rows(fails=True), 8, num_workers=1)


def stuck() -> DataLoader[Any]:
    return DataLoader(Rows(slow=1000.0), 8, num_workers=1)


def threaded() -> DataLoader[Any]:
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return good()


def raising() -> DataLoader[Any]:
    raise RuntimeError("no data here")


number = 3
