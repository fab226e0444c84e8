"""Iterable datasets: a worker's iterator is made again in the next process, and goes on where the consumer is.

Two workers share 46 samples unevenly (31 and 15) and shuffle them through a buffer with Python's generator.
"""

from __future__ import annotations

import pytest

from tests.fixtures_data import Orders, Stream
from tests.runtime.conftest import Rig
from tests.runtime.harness import COUNT, fault_of, kill_all, make, persistent_epochs, reference, run_epoch

pytestmark = pytest.mark.usefixtures("forked")

MOMENTS = {
    "its very first sample": "stream 0-0",
    "the middle of its shard": "stream 0-13",
    "the last sample of its shard": "stream 1-14",
    "its last batch, after the other worker ended": "stream 0-29",
    "the end of its iterator": "end 1",
    "the end of its iterator, when it is the last": "end 0",
    "the call of iter()": "iter 1",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_dies_in_an_iterable_dataset_costs_no_batch(stream_rig: Rig, moment: str) -> None:
    place, key = MOMENTS[moment].split()
    stream_rig.orders.give(place, key, "SIGKILL")
    faults = stream_rig.check_epoch()
    assert [(fault.cause, fault.detail, fault.worker) for fault in faults] == [("died", "SIGKILL", int(key[0]))]


def test_a_hang_in_an_iterable_dataset_costs_no_batch(stream_rig: Rig) -> None:
    stream_rig.orders.give("stream", "1-6", "sleep")
    fault = next(fault for fault in stream_rig.check_epoch() if fault.worker == 1)
    assert fault.cause == "hung"
    assert "in __iter__" in (fault.stack or "")


def test_all_processes_of_an_iterable_dataset_may_die_at_once(stream_rig: Rig) -> None:
    faults = stream_rig.check_epoch({4: lambda: kill_all(stream_rig.loader)})
    assert {fault.worker for fault in faults} == {0, 1}


def test_an_iterable_dataset_killed_between_epochs_begins_the_next_one_as_torchs(stream_rig: Rig) -> None:
    kill_all(stream_rig.loader)
    assert {fault.worker for fault in stream_rig.check_epoch()} == {0, 1}


@pytest.mark.parametrize("options", [{"batch_size": None}, {"drop_last": True}], ids=["no batches", "drop_last"])
def test_other_ways_to_batch_an_iterable_dataset_are_torchs_after_a_fault(orders: Orders, options: object) -> None:
    assert isinstance(options, dict)
    (expected,) = reference("stream", **options)
    orders.give("stream", "0-7", "SIGKILL")
    loader = make(Stream(COUNT, orders), **options)
    assert run_epoch(loader) == expected
    assert fault_of(loader, worker=0).detail == "SIGKILL"


def test_an_iterable_dataset_out_of_order_delivers_each_sample_once(orders: Orders) -> None:
    orders.give("stream", "0-17", "SIGKILL")
    loader = make(Stream(COUNT, orders), in_order=False)
    assert sorted(int(row[0]) for batch in loader for row in batch) == list(range(COUNT))
    assert loader.report().faults[0].worker == 0


def test_workers_that_are_not_persistent_begin_each_epoch_anew(orders: Orders) -> None:
    orders.give("stream", "0-5", "SIGKILL")
    loader = make(Stream(COUNT, orders))
    assert run_epoch(loader) == persistent_epochs("stream")[0]
