"""The samples of the scenarios, and the digest by which two batches are compared.

A sample depends on its index and on the three random streams of the worker that made it, so equal digests
mean equal data and equal generators.
"""

from __future__ import annotations

import hashlib
import random
import time
from typing import Any

import numpy
import torch
from torch.utils.data import Dataset

from benchmarks.hangs import faults

PACE = 0.02
"""Seconds that a sample takes."""
FAULT_AT = 18
"""The index whose sample goes wrong: in the middle of batch 4 of `Samples` in batches of 4."""


class Samples(Dataset[torch.Tensor]):
    """``length`` small samples, each made of its index and of the worker's random streams.

    Scenarios override `before`, which is called for every sample before it is made.
    """

    def __init__(self, length: int = 32) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def before(self, index: int) -> None:
        """Go wrong here."""

    def __getitem__(self, index: int) -> Any:
        faults.sign_in()
        time.sleep(PACE)
        self.before(index)
        return sample(index)


def sample(index: int) -> torch.Tensor:
    """One sample: eight numbers, four of them out of the random streams of this process."""
    drawn = torch.rand(2, dtype=torch.float64)
    more = torch.tensor([numpy.random.random(), random.random()], dtype=torch.float64)
    return torch.cat([torch.full((4,), float(index), dtype=torch.float64), drawn, more])


def digest(batch: Any) -> str:
    """A short digest of every byte, shape and type of a batch in any nesting of tensors, lists and dictionaries."""
    state = hashlib.blake2b(digest_size=8)
    _feed(state, batch)
    return state.hexdigest()


def _feed(state: hashlib.blake2b, part: Any) -> None:
    if isinstance(part, torch.Tensor):
        state.update(f"{part.dtype}{tuple(part.shape)}".encode())
        state.update(part.detach().contiguous().numpy().tobytes())
    elif isinstance(part, dict):
        for key, value in part.items():
            state.update(repr(key).encode())
            _feed(state, value)
    elif isinstance(part, (list, tuple)):
        state.update(f"{type(part).__name__}{len(part)}".encode())
        for value in part:
            _feed(state, value)
    elif isinstance(part, bytes):
        state.update(part)
    else:
        state.update(repr(part).encode())
