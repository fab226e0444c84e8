"""Faults outside a sample: in the collate function, while a batch is serialised, while a worker is set up."""

from __future__ import annotations

import pytest

from safeloader import Policy
from safeloader.errors import StartError
from tests.fixtures_data import Collate, Draws, DrawsAtOnce, InitFunction, Orders, UnpickleTrap, WithFacts, worker_facts
from tests.runtime.conftest import Rig
from tests.runtime.harness import (
    COUNT,
    fault_of,
    first_index,
    kill_all,
    make,
    persistent_epochs,
    play,
    processes_of,
    reference,
    run_epoch,
    seed,
)

pytestmark = pytest.mark.usefixtures("forked")


def _fifth_key(rig: Rig) -> int:
    return first_index(persistent_epochs()[rig.epoch].batches[4])


@pytest.mark.parametrize("place", ["collate", "collated"])
def test_a_process_that_dies_in_the_collate_function_costs_no_batch(rig: Rig, place: str) -> None:
    rig.orders.give(place, _fifth_key(rig), "SIGKILL")
    (fault,) = rig.check_epoch()
    assert (fault.cause, fault.detail, fault.batch, fault.sample) == ("died", "SIGKILL", 4, None)


def test_a_hang_in_the_collate_function_is_reported_with_its_stack(rig: Rig) -> None:
    rig.orders.give("collate", _fifth_key(rig), "sleep")
    fault = next(fault for fault in rig.check_epoch() if fault.batch == 4)
    assert (fault.cause, fault.sample) == ("hung", None)
    assert "in __call__" in (fault.stack or "")


def test_a_process_that_dies_while_a_batch_is_half_in_its_lease_costs_no_batch(orders: Orders) -> None:
    expected = persistent_epochs()[0].batches
    orders.give("pickle", first_index(expected[4]), "SIGKILL")
    orders.give("collated", first_index(expected[7]), "SIGKILL")
    loader = make(Draws(COUNT, orders), collate_fn=Collate(orders, trap=True))
    seed()
    assert play(batch for batch, _ in loader).batches == expected
    faults = loader.report().faults
    assert {(fault.detail, fault.batch, fault.sample) for fault in faults} == {
        ("SIGKILL", 4, None), ("SIGKILL", 7, None),
    }  # fmt: skip


def test_a_process_that_dies_while_it_fetches_a_batch_at_once_costs_no_batch(orders: Orders) -> None:
    orders.give("sample", 24, "SIGKILL")
    loader = make(DrawsAtOnce(COUNT, orders))
    assert run_epoch(loader) == persistent_epochs()[0]
    fault = fault_of(loader, cause="died")
    assert fault.indices is not None
    assert 24 in fault.indices
    assert fault.sample is None


def test_a_process_that_dies_in_worker_init_fn_is_replaced(orders: Orders) -> None:
    orders.give("init", 1, "SIGKILL")
    loader = make(Draws(COUNT, orders), worker_init_fn=InitFunction(orders))
    assert run_epoch(loader) == persistent_epochs()[0]
    fault = fault_of(loader, worker=1)
    assert (fault.cause, fault.detail, fault.batch) == ("died", "SIGKILL", None)


@pytest.mark.parametrize("place", ["init", "unpickle"])
def test_a_worker_that_can_never_be_set_up_is_one_clear_error(orders: Orders, place: str) -> None:
    orders.give(place, 0 if place == "init" else "dataset", "SIGKILL", always=True)
    policy = Policy(bad_sample_attempts=1, max_processes=1)
    loader = make(UnpickleTrap(COUNT, orders), worker_init_fn=InitFunction(orders), policy=policy)
    with pytest.raises(StartError, match="setting up a worker kills or hangs every process") as caught:
        next(iter(loader))
    assert "worker_init_fn" in caught.value.hint
    assert caught.value.report is not None
    assert [fault.detail for fault in caught.value.report.faults] == ["SIGKILL", "SIGKILL"]
    assert processes_of(loader) == []


def test_a_process_that_dies_while_the_dataset_is_unpickled_is_replaced(rig: Rig) -> None:
    """The first process dies in a sample, the second while it rebuilds the dataset, the third goes on."""
    rig.orders.give("sample", 24, "SIGKILL")
    rig.orders.give("unpickle", "dataset", "SIGKILL")
    first, second = rig.check_epoch()
    assert (first.cause, first.sample, first.worker) == ("died", 24, second.worker)
    assert (second.cause, second.batch) == ("died", None)
    assert first.process != second.process


@pytest.mark.parametrize("deed", ["OSError", "interrupt"])
def test_a_dataset_that_could_be_rebuilt_before_is_tried_again(rig: Rig, deed: str) -> None:
    """The file server hiccups just when a new process imports the dataset's module, say."""
    rig.orders.give("sample", 24, "SIGKILL")
    rig.orders.give("unpickle", "dataset", deed)
    first, second = rig.check_epoch()
    assert (first.detail, second.detail) == ("SIGKILL", "exit code 1")
    assert "__setstate__" in (second.stack or "")


def test_what_worker_init_fn_did_is_done_again_in_the_next_process() -> None:
    """It changed the dataset copy and drew from all generators; the worker's draws go on where they were."""
    (expected,) = reference("facts", worker_init_fn=worker_facts)
    loader = make(WithFacts(), worker_init_fn=worker_facts)
    seed()
    stream = iter(loader)
    batches = [next(stream), next(stream)]
    kill_all(loader)
    assert play([*batches, *stream]) == expected
    assert len(loader.report().faults) == 2
