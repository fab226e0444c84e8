"""Ray Data as a source, with a stand-in that has its one method; the real package is tried by ``make test-ray``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from safeloader import BatchTimeoutError, DataLoader, SettingsError
from safeloader.ray import from_dataset


class Source:
    """Gives so many batches; before one of them it waits."""

    def __init__(self, count: int, waits_at: int = -1, raises_at: int = -1) -> None:
        self.count, self.waits_at, self.raises_at = count, waits_at, raises_at
        self.go_on = threading.Event()

    def iter_torch_batches(self, batch_size: int) -> Iterator[dict[str, Any]]:
        for number in range(self.count):
            if number == self.waits_at:
                self.go_on.wait()
            if number == self.raises_at:
                raise KeyError("column")
            yield {"x": torch.full((batch_size,), number)}


def test_batches_come_as_they_are_epoch_after_epoch() -> None:
    loader = DataLoader(from_dataset(Source(3), batch_size=2), batch_size=None)
    for _ in range(2):
        assert [batch["x"].tolist() for batch in loader] == [[0, 0], [1, 1], [2, 2]]
    assert loader.report().faults == []


def test_a_batch_that_does_not_come_is_an_error_in_time() -> None:
    source = Source(3, waits_at=1)
    batches = iter(DataLoader(from_dataset(source, timeout=0.2, batch_size=2), batch_size=None))
    next(batches)
    with pytest.raises(BatchTimeoutError, match=r"Ray Data has not given batch 1 within 0\.2 s"):
        next(batches)
    source.go_on.set()


def test_an_error_of_ray_s_is_raised_as_it_is() -> None:
    batches = iter(DataLoader(from_dataset(Source(3, raises_at=1), batch_size=2), batch_size=None))
    next(batches)
    with pytest.raises(KeyError, match="column"):
        next(batches)


def test_an_epoch_that_is_broken_off_leaves_no_thread() -> None:
    batches = iter(from_dataset(Source(3), batch_size=2))
    next(batches)
    del batches


def test_a_timeout_of_nothing_is_an_error() -> None:
    with pytest.raises(SettingsError, match="timeout=0 is not accepted"):
        from_dataset(Source(1), timeout=0)
