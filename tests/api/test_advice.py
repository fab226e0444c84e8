"""When a report advises to do without worker processes: never on a guess."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import Sampler, TensorDataset

from safeloader import DataLoader
from safeloader.observe.report import Report
from safeloader.observe.spread import Spread
from safeloader.observe.timings import Costs, Timings
from safeloader.observe.without_workers import faster_without

CHEAP = Costs(1000, making=50e-6, fetching=150e-6)


def _timings(
    batches: int = 600, load: float = 40e-6, collate: float = 10e-6, transfer: float = 20e-6, drawn: float = 1e-3,
    waited: float = 1.2e-3, every: int = 0, slow: float = 0.0,
) -> Timings:  # fmt: skip
    timings = Timings()
    for task in range(batches):
        timings.loaded(task, task % 2, slow if every and task % every == 0 else load, collate)
        timings.drawn += drawn
        timings.delivered(task, transfer)
        timings.given(waited)
    return timings


def test_batches_that_are_cheaper_to_make_than_to_get_are_told() -> None:
    told = faster_without(CHEAP)
    assert told.startswith("num_workers=0 would be faster: a batch is made in 50 µs, and costs 150 µs to get"), told
    assert f"advice: {told}" in str(replace(Report("train", batches=1000), advice=told))
    assert "advice" not in str(Report("train", batches=1000))


@pytest.mark.parametrize(
    "costs",
    [Costs(), CHEAP._replace(batches=100), CHEAP._replace(fetching=90e-6), CHEAP._replace(making=0.1)],
    ids=["nothing yet", "too few batches", "not clearly", "loading takes its time"],
)
def test_nothing_is_said_otherwise(costs: Costs) -> None:
    assert faster_without(costs) == ""


def test_the_sampler_and_decoding_are_no_costs_of_processes() -> None:
    costs = _timings().costs()
    assert costs.batches == 600
    assert costs.making == pytest.approx(50e-6, rel=0.25)
    assert costs.fetching == pytest.approx(180e-6, rel=0.25)
    assert faster_without(costs)
    assert not faster_without(_timings(drawn=1.1e-3).costs()), "the sampler takes as long without processes"
    assert not faster_without(_timings(transfer=130e-6).costs())
    assert not faster_without(_timings(waited=1.1e-3).costs())


def test_a_few_batches_that_take_long_count_by_the_mean() -> None:
    """Say a shard that is opened now and then: processes hide that."""
    assert not faster_without(_timings(every=200, slow=1.0).costs())
    assert faster_without(_timings(every=200, slow=0.001).costs())


def test_the_longest_waits_do_not_count() -> None:
    """Starts of processes, and faults."""
    spread = Spread()
    for number in range(1000):
        spread.add(10.0 if number % 20 == 0 else 100e-6)
    assert spread.mean_of_most() == pytest.approx(95e-6, rel=0.25)
    assert Spread().mean_of_most() == 0.0


def test_batches_that_no_process_made_have_no_advice() -> None:
    timings = Timings()
    for task in range(1000):
        timings.loaded(task, 0, 40e-6, None)
        timings.delivered(task, 0.0)
        timings.given(60e-6)
    assert faster_without(timings.costs()) == ""


class Slow(Sampler[int]):
    """Takes a hundredth of a second an index."""

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[int]:
        for index in range(8):
            time.sleep(0.01)
            yield index


def test_what_the_sampler_takes_is_measured(forked: Any) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(8)), 1, sampler=Slow(), num_workers=1)
    with loader:
        list(loader)
        report, besides = loader.report(), loader._safe.recorder.timings
        besides.costs()
    assert report.advice == "", "so few batches say nothing"
    assert report.waits.seconds - besides._besides.seconds >= 6 * 0.01, "two are drawn before anybody waits"
