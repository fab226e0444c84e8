"""The audit tries whether a dataset can be brought back to a place, by its own state and by reading it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import safeloader
from safeloader import DataLoader, Policy
from tests.api.state_data import Growing, StatefulStream
from tests.fixtures_data import Draws, Stream
from tests.runtime import own_data as own

AGAIN = {"state_not_exact", "state_exact", "not_repeatable", "not_covered", "not_tried"}


class Counting(Dataset[torch.Tensor]):
    """Counts what it has loaded, and tells it with each sample."""

    def __init__(self) -> None:
        self.count = 0

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        self.count += 1
        return torch.tensor([index, self.count])


DATASETS: dict[str, tuple[Any, set[str]]] = {
    "an exact state": (StatefulStream(160), {"state_exact"}),
    "a state that leaves something out": (own.HalfTold(None, 160), {"state_not_exact"}),
    "a state that is refused": (own.Refusing(None, 160), {"state_not_exact"}),
    "a shuffle without a seed": (own.Unsteady(160), {"not_repeatable"}),
    "a shuffle with one": (Stream(160), set()),
    "a generator of its own": (own.OwnStream(own.Jitter(own.KINDS["PCG64"]()), 160), set()),
    "samples that only draw": (Draws(24), set()),
    "samples of a generator made by the first": (own.Own(own.PLACES["the first sample"](), 24), set()),
    "samples that count": (Counting(), {"not_covered"}),
    "samples that depend on those before, in a dataset that tells its state": (Growing(24), set()),
}


@pytest.mark.parametrize("name", DATASETS)
def test_it_is_said_what_comes_back(name: str) -> None:
    dataset, expected = DATASETS[name]
    loader = DataLoader(dataset, 4, num_workers=2, policy=Policy(max_processes=0))
    report = safeloader.audit(loader, epochs=1, batches=2)
    assert {finding.kind for finding in report.findings} & AGAIN == expected, str(report)


def test_processes_are_asked_where_the_loader_has_some(forked: None) -> None:
    report = safeloader.audit(DataLoader(own.HalfTold(None, 160), 4, num_workers=2), epochs=1, batches=2)
    found = next(finding for finding in report.findings if finding.kind == "state_not_exact")
    assert "after 7 samples is not exact" in found.text or "after 1 samples is not exact" in found.text
