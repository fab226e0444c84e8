"""What is hung and what is only slow; what the deadline counts and what it does not."""

from __future__ import annotations

import time

import pytest

from safeloader import Policy
from safeloader.errors import StartError
from tests.fixtures_data import Draws, Orders, UnpickleTrap
from tests.runtime.conftest import Rig
from tests.runtime.harness import COUNT, first_index, make, persistent_epochs, run_epoch

pytestmark = pytest.mark.usefixtures("forked")


def test_a_slow_batch_whose_samples_finish_is_reported_and_not_killed(orders: Orders) -> None:
    for index in (20, 21, 22, 23):
        orders.give("sample", index, "sleep 1.6", always=True)
    loader = make(Draws(COUNT, orders), shuffle=False, policy=Policy(batch_timeout=3.0, max_processes=1))
    assert [int(row[0]) for batch in loader for row in batch] == list(range(COUNT))
    report = loader.report()
    assert report.slow_batches >= 1
    assert [fault for fault in report.faults if fault.batch == 5] == []


def test_a_sample_slower_than_the_deadline_gets_twice_the_time_and_costs_no_batch(orders: Orders) -> None:
    orders.give("sample", 24, "sleep 1.5", always=True)
    loader = make(Draws(COUNT, orders), policy=Policy(batch_timeout=1.0, max_restarts=100, bad_sample_attempts=10))
    assert run_epoch(loader) == persistent_epochs()[0]
    faults = [fault for fault in loader.report().faults if fault.sample == 24]
    assert faults[0].cause == "hung"
    assert faults[0].stalled is not None
    assert faults[0].stalled >= 1.0


def test_a_long_step_of_the_trainer_is_not_counted_against_the_processes(rig: Rig) -> None:
    assert rig.check_epoch({3: lambda: time.sleep(rig.timeout + 0.5)}) == []


def test_a_hang_during_a_long_step_is_noticed_as_soon_as_the_trainer_asks(orders: Orders) -> None:
    """The deadline counts from when the process took the task, not from when the trainer came back."""
    patience = 2.0
    expected = persistent_epochs()[0]
    orders.give("sample", first_index(expected.batches[3]), "sleep")
    loader = make(Draws(COUNT, orders), policy=Policy(batch_timeout=patience))
    back_at = 0.0

    def with_a_long_step() -> object:
        nonlocal back_at
        for number, batch in enumerate(loader):
            yield batch
            if number == 1:
                time.sleep(patience + 1)
                back_at = time.time()

    from tests.runtime.harness import play, seed

    seed()
    assert play(with_a_long_step()) == expected  # type: ignore[arg-type]
    fault = next(fault for fault in loader.report().faults if fault.batch == 3)
    assert fault.cause == "hung"
    assert fault.time - back_at < patience


def test_a_slow_start_is_not_counted_against_the_batch(rig: Rig) -> None:
    """The next process needs longer to rebuild the dataset than a batch may take."""
    rig.orders.give("sample", 24, "SIGKILL")
    rig.orders.give("unpickle", "dataset", f"sleep {rig.timeout + 0.5}")
    assert [fault.detail for fault in rig.check_epoch()] == ["SIGKILL"]
    assert rig.orders.carried_out("unpickle", "dataset")


def test_a_deadline_that_learns_disturbs_nobody(orders: Orders) -> None:
    orders.give("sample", 24, "sleep 0.5")
    loader = make(Draws(COUNT, orders), policy=Policy(batch_timeout="auto"))
    assert run_epoch(loader) == persistent_epochs()[0]
    assert loader.report().faults == []


def test_torchs_timeout_is_the_batch_timeout(orders: Orders) -> None:
    orders.give("sample", 24, "sleep")
    loader = make(Draws(COUNT, orders), timeout=1)
    assert run_epoch(loader) == persistent_epochs()[0]
    fault = next(fault for fault in loader.report().faults if fault.sample == 24)
    assert fault.cause == "hung"
    assert fault.stalled is not None
    assert fault.stalled >= 1.0


@pytest.mark.slow
def test_a_deadline_that_learned_ends_a_hang_long_before_one_that_did_not(orders: Orders) -> None:
    orders.give("sample", 40, "sleep")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=Policy(batch_timeout="auto"))
    assert [int(row[0]) for batch in loader for row in batch] == list(range(COUNT))
    fault = next(fault for fault in loader.report().faults if fault.sample == 40)
    assert fault.stalled is not None
    assert fault.stalled < 100.0


@pytest.mark.slow
def test_a_worker_whose_setup_always_hangs_is_one_clear_error_with_the_stack(orders: Orders) -> None:
    orders.give("unpickle", "dataset", "sleep", always=True)
    policy = Policy(startup_timeout=15.0, bad_sample_attempts=0, max_processes=1)
    with pytest.raises(StartError, match="setting up a worker") as caught:
        next(iter(make(UnpickleTrap(COUNT, orders), policy=policy)))
    assert "__setstate__" in str(caught.value)
    assert caught.value.report is not None
    assert caught.value.report.faults[0].cause == "hung"
