"""A process dies, stops or hangs in the middle of a sample: the epoch goes on, and its bytes are torch's."""

from __future__ import annotations

import pytest

from safeloader import Policy
from tests.fixtures_data import Draws, Orders
from tests.runtime.conftest import Rig
from tests.runtime.harness import BATCH, COUNT, fault_of, make, reference, run_epoch

BAD = 24

DEATHS = {
    "SIGKILL": "SIGKILL",
    "SIGABRT": "SIGABRT",
    "SIGSEGV": "SIGSEGV",
    "exit 0": "exit code 0",
    "exit 7": "exit code 7",
    "sys.exit": "exit code 3",
    "interrupt": "exit code 1",
}


WITH_STACK = ("SIGABRT", "SIGSEGV", "interrupt")


@pytest.mark.fresh
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("deed", DEATHS)
def test_a_process_that_dies_in_a_sample_costs_no_batch(rig: Rig, deed: str) -> None:
    _check_death(rig, deed)


@pytest.mark.parametrize("deed", ["SIGKILL", "SIGSEGV", "exit 7"])
def test_a_spawned_process_that_dies_in_a_sample_costs_no_batch(rig: Rig, deed: str) -> None:
    _check_death(rig, deed)


def _check_death(rig: Rig, deed: str) -> None:
    rig.orders.give("sample", BAD, deed)
    (fault,) = rig.check_epoch()
    assert (fault.cause, fault.detail, fault.sample) == ("died", DEATHS[deed], BAD)
    assert fault.indices is not None
    assert BAD in fault.indices
    assert fault.batch is not None
    assert (fault.worker, fault.attempts) == (fault.batch % 2, 1)
    assert fault.action in (("handed over", "restarted") if deed == "SIGKILL" else ("restarted",))
    assert fault.seconds_lost is not None
    if deed in WITH_STACK:
        assert "fixtures_data.py" in (fault.stack or "")
        assert "__getitem__" in (fault.stack or "")


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("deed", [pytest.param("lock", marks=pytest.mark.slow), "lock in C", "spin"])
def test_a_process_that_hangs_in_a_sample_is_replaced_and_its_stack_is_kept(rig: Rig, deed: str) -> None:
    _check_hang(rig, deed)


def test_a_spawned_process_that_hangs_in_a_sample_is_replaced_and_its_stack_is_kept(rig: Rig) -> None:
    _check_hang(rig, "sleep")


def _check_hang(rig: Rig, deed: str) -> None:
    rig.orders.give("sample", BAD, deed)
    fault = next(fault for fault in rig.check_epoch() if fault.sample == BAD)
    assert fault.cause == "hung"
    assert "fixtures_data.py" in (fault.stack or "")
    assert "__getitem__" in (fault.stack or "")
    assert fault.stalled is not None
    assert fault.stalled >= rig.timeout


@pytest.mark.usefixtures("forked")
def test_a_process_that_is_stopped_in_a_sample_is_told_from_one_that_hangs(rig: Rig) -> None:
    rig.orders.give("sample", BAD, "SIGSTOP")
    fault = next(fault for fault in rig.check_epoch() if fault.sample == BAD)
    assert fault.cause == "stopped"


@pytest.mark.usefixtures("forked")
def test_sigterm_to_a_process_alone_does_nothing(rig: Rig) -> None:
    rig.orders.give("sample", BAD, "SIGTERM")
    assert rig.check_epoch() == []
    assert rig.orders.carried_out("sample", BAD)


@pytest.mark.usefixtures("forked")
def test_two_faults_in_one_epoch_are_two_rows_of_the_report(rig: Rig) -> None:
    rig.orders.give("sample", 7, "SIGKILL")
    rig.orders.give("sample", 31, "exit 0")
    faults = rig.check_epoch()
    assert sorted(fault.detail for fault in faults) == ["SIGKILL", "exit code 0"]
    # A new copy may load sample 7 of the epoch before once more, and be killed there.
    assert {fault.sample for fault in faults} in ({7, 31}, {None, 31}, {7, None})


@pytest.mark.usefixtures("forked")
def test_a_fault_in_the_first_and_in_the_last_sample_of_an_epoch_costs_no_batch(rig: Rig, orders: Orders) -> None:
    with make(Draws(COUNT, orders), shuffle=False, policy=Policy(max_restarts=100)) as loader:
        orders.give("sample", 0, "SIGKILL")
        orders.give("sample", COUNT - 1, "SIGKILL")
        delivered = [batch[:, 0].tolist() for batch in loader]
        assert delivered == [list(range(at, min(at + BATCH, COUNT))) for at in range(0, COUNT, BATCH)]
        assert [fault.sample for fault in loader.report().faults] == [0, COUNT - 1]


@pytest.mark.usefixtures("forked")
def test_workers_that_are_not_persistent_are_replaced_too(orders: Orders) -> None:
    loader = make(Draws(COUNT, orders))
    for epoch, expected in enumerate(reference(epochs=2)):
        orders.give("sample", BAD + epoch, "SIGKILL")
        assert run_epoch(loader, epoch) == expected
        assert fault_of(loader, cause="died", sample=BAD + epoch, epoch=epoch).detail == "SIGKILL"
    assert loader.report().restarts == 2
