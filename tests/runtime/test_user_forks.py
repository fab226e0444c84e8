"""A dataset that forks its worker, and whose child comes back out of it: the child ends, the worker's batches are its own."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from safeloader import DataLoader
from tests.runtime.harness import _bytes, seed

pytestmark = pytest.mark.usefixtures("forked")


class Forking(Dataset[torch.Tensor]):
    """At sample 5 it forks, and its child ``returns`` something else, or ``raises``."""

    def __init__(self, child: str = "") -> None:
        self.child = child

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = torch.rand(500)
        if index == 5 and self.child in ("returns", "raises"):
            pid = os.fork()
            if pid == 0:
                if self.child == "raises":
                    raise ValueError("in a child")
                return torch.zeros(500)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        return drawn + index


class Collating:
    """At the batch with sample 5 it forks, and the child ``collates`` something else."""

    def __init__(self, child: str = "") -> None:
        self.child = child

    def __call__(self, samples: list[torch.Tensor]) -> Any:
        batch = default_collate(samples)
        if any(int(sample.min()) == 5 for sample in samples) and self.child == "collates":
            pid = os.fork()
            if pid == 0:
                return default_collate([torch.zeros(500) for _ in samples])
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        return batch


def epochs(child: str) -> list[bytes]:
    seed()
    with DataLoader(Forking(child), 4, num_workers=2, collate_fn=Collating(child), persistent_workers=True) as loader:
        came = [_bytes(batch) for _ in range(2) for batch in loader]
        assert not loader.report().faults
    return came


@pytest.mark.parametrize("child", ["returns", "raises", "collates"])
def test_a_child_that_comes_back_changes_no_batch(child: str) -> None:
    assert epochs(child) == epochs("")
