"""The schedule is pure: the size is a function of the epoch, and what is no schedule is an error."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safeloader import DataLoader, SettingsError
from safeloader.ffcv import ProgressiveResize, SharedSize


def test_steps() -> None:
    schedule = ProgressiveResize([(0, 128), (6, 160), (12, 192)])
    assert [schedule.size_at(epoch) for epoch in (0, 5, 6, 11, 12, 500)] == [128, 128, 160, 160, 192, 192]


def of_ffcv_imagenet(epoch: int, min_res: int, max_res: int, end_ramp: int, start_ramp: int) -> int:
    """``get_resolution`` as it stands in ffcv-imagenet's train_imagenet.py."""
    import numpy as np

    if epoch <= start_ramp:
        return min_res
    if epoch >= end_ramp:
        return max_res
    interp = np.interp([epoch], [start_ramp, end_ramp], [min_res, max_res])
    return int(np.round(interp[0] / 32)) * 32


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 70), st.integers(1, 30), st.integers(0, 110))
def test_a_ramp_is_that_of_ffcv_imagenet(low: int, more: int, start: int, length: int, epoch: int) -> None:
    first, last = 32 * low, 32 * (low + more)
    ramp = ProgressiveResize.ramp(first, last, start=start, end=start + length)
    assert ramp.size_at(epoch) == of_ffcv_imagenet(epoch, first, last, start + length, start)


@given(st.dictionaries(st.integers(1, 90), st.integers(1, 600)), st.integers(1, 600), st.integers(0, 100))
def test_the_size_is_that_of_the_last_step_before(steps: dict[int, int], first: int, epoch: int) -> None:
    table = {0: first, **steps}
    schedule = ProgressiveResize(sorted(table.items()))
    assert schedule.size_at(epoch) == table[max(e for e in table if e <= epoch)]


def test_a_function() -> None:
    assert ProgressiveResize(lambda epoch: 64 + 32 * epoch).size_at(3) == 160


@pytest.mark.parametrize(
    "schedule",
    [
        [], [(1, 128)], [(0, 128), (0, 160)], [(0, 128), (6, 160), (3, 192)], [(0, 0)], [(0, -32)], [(0, 128.0)],
        [(0, True)], [(0, "128")], [(0.5, 128)], [5], [(0, 1, 2)], lambda epoch: 0, lambda epoch: "large",
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_an_error(schedule: Any) -> None:
    with pytest.raises(SettingsError):
        ProgressiveResize(schedule)


@pytest.mark.parametrize(("start", "end"), [(7, 5), (6, 5), (-1, 5)])
def test_a_ramp_must_go_somewhere(start: int, end: int) -> None:
    with pytest.raises(SettingsError, match="goes nowhere"):
        ProgressiveResize.ramp(128, 192, start=start, end=end)


def test_a_negative_epoch_is_an_error() -> None:
    with pytest.raises(SettingsError, match="no epoch -1"):
        ProgressiveResize([(0, 128)]).size_at(-1)


class Squares:
    """Images of the size that living workers are told."""

    def __init__(self) -> None:
        self.size = SharedSize(8)

    def set_size(self, size: int) -> None:
        self.size.set(size)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(3, self.size.get(), self.size.get())


def test_the_same_schedule_drives_a_dataloader_with_living_workers() -> None:
    schedule, dataset = ProgressiveResize([(0, 8), (1, 16), (3, 12)]), Squares()
    with DataLoader(
        dataset,
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="spawn",  # type: ignore[arg-type]
    ) as loader:
        for epoch in range(4):
            size = schedule.apply(dataset, epoch)
            assert [tuple(batch.shape) for batch in loader] == [(4, 3, size, size)] * 2
            assert size == schedule.size_at(epoch)


class Growing:
    """Images of a size that is a plain attribute; kills its process once, at size 16, if it finds its order."""

    def __init__(self, orders: Path) -> None:
        self.size, self.told, self.orders = 0, -1, orders

    def set_size(self, size: int) -> None:
        self.size = size

    def set_epoch(self, epoch: int) -> None:
        self.told = epoch

    def __len__(self) -> int:
        return 8

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        if self.size == 16 and 4 in indices and self.orders.exists():
            self.orders.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return [torch.full((3, self.size, self.size), self.told) for _ in indices]


def test_a_dataloaders_set_epoch_sets_the_size_in_living_workers_and_in_those_that_replace_them(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.touch()
    schedule = ProgressiveResize([(0, 8), (1, 16), (3, 12)])
    dataset = schedule.over(Growing(orders))
    assert (len(dataset), dataset.size) == (8, 8)
    with DataLoader(
        dataset, batch_size=4, num_workers=1, persistent_workers=True, multiprocessing_context="spawn"
    ) as loader:
        for epoch in (0, 1, 2, 3, 1):
            loader.set_epoch(epoch)
            size = schedule.size_at(epoch)
            assert [(tuple(batch.shape), int(batch.max())) for batch in loader] == [((4, 3, size, size), epoch)] * 2
        assert loader.report().causes == {"died": 1}


def test_a_dataset_without_set_size_is_told_so() -> None:
    with pytest.raises(SettingsError, match="has no set_size"):
        ProgressiveResize([(0, 8)]).apply([1, 2], 0)
    with pytest.raises(SettingsError, match="has no set_size"):
        ProgressiveResize([(0, 8)]).over([1, 2])


@pytest.mark.parametrize(
    ("first", "last", "start", "end"), [(160, 160, 0, 0), (160, 192, 3, 3), (96, 96, 0, 5), (128, 160, 0, 0)]
)
def test_ramps_that_are_flat_or_a_single_step(first: int, last: int, start: int, end: int) -> None:
    """As ``get_resolution`` of ffcv-imagenet, whose defaults are a ramp from epoch 0 to epoch 0."""
    schedule = ProgressiveResize.ramp(first, last, start=start, end=end)
    assert [schedule.size_at(epoch) for epoch in range(8)] == [
        first
        if epoch <= start
        else last
        if epoch >= end
        else round((first + (last - first) * (epoch - start) / (end - start)) / 32) * 32
        for epoch in range(8)
    ]
