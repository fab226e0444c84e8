"""Processes that an agent has die, hang and are stopped, and their link is cut: the bytes are torch's."""

from __future__ import annotations

import select
import signal
import socket
import threading

import pytest

from safeloader.remote import plain_hosts
from tests.remote.conftest import FarRig
from tests.remote.links import SILENCE
from tests.runtime.harness import driver_of, gone, processes_of
from tests.until import until

BAD = 24


def test_batches_are_torchs_and_come_from_there(rig: FarRig) -> None:
    assert rig.check_epoch() == []
    assert len(rig.agent.processes()) >= 2


@pytest.mark.slow
def test_those_of_a_stream_are_torchs_whatever_ends_its_process(stream_rig: FarRig) -> None:
    assert stream_rig.check_epoch() == []
    stream_rig.orders.give("stream", "1-6", "SIGKILL")
    (fault,) = stream_rig.check_epoch()
    assert (fault.cause, fault.detail) == ("died", "SIGKILL")


@pytest.mark.parametrize(
    ("deed", "detail"),
    [
        ("SIGKILL", "SIGKILL"),
        pytest.param("SIGSEGV", "SIGSEGV", marks=pytest.mark.slow),
        pytest.param("exit 7", "exit code 7", marks=pytest.mark.slow),
    ],
)
def test_an_end_there_is_the_same_end_here(rig: FarRig, deed: str, detail: str) -> None:
    rig.orders.give("sample", BAD, deed)
    (fault,) = rig.check_epoch()
    assert (fault.cause, fault.detail, fault.sample, fault.attempts) == ("died", detail, BAD, 1)
    if deed == "SIGSEGV":
        assert "__getitem__" in (fault.stack or "")


@pytest.mark.slow
def test_a_hang_there_is_found_with_its_stack(rig: FarRig) -> None:
    rig.orders.give("sample", BAD, "lock")
    fault = next(fault for fault in rig.check_epoch() if fault.sample == BAD)
    assert fault.cause == "hung"
    assert "__getitem__" in (fault.stack or "")


@pytest.mark.slow
def test_a_process_that_is_stopped_there_is_told_from_one_that_hangs(rig: FarRig) -> None:
    rig.orders.give("sample", BAD, "SIGSTOP")
    fault = next(fault for fault in rig.check_epoch() if fault.sample == BAD)
    assert fault.cause == "stopped"


@pytest.mark.slow
def test_an_error_there_is_raised_here(rig: FarRig) -> None:
    rig.orders.give("sample", BAD, "ValueError")
    with pytest.raises(ValueError, match="a bad picture"):
        rig.check_epoch()
    rig.end_loader()


@pytest.mark.slow
def test_a_killed_stand_in_costs_no_batch_and_its_process_ends(rig: FarRig) -> None:
    there = {process.pid for process in rig.agent.processes()}
    victim = processes_of(rig.loader)[0]
    (fault,) = rig.check_epoch({3: victim.kill})
    assert (fault.cause, fault.detail) == ("died", "SIGKILL")
    assert until(lambda: len(there & {process.pid for process in rig.agent.processes()}) == len(there) - 1)
    rig.end_loader()  # it ends the epoch with one process


@pytest.mark.slow
def test_a_stopped_stand_in_is_replaced(rig: FarRig) -> None:
    victim = processes_of(rig.loader)[0]
    faults = rig.check_epoch({1: lambda: victim.send_signal(signal.SIGSTOP)})
    assert [fault.cause for fault in faults] == ["stopped"]


def test_a_link_that_is_closed_is_one_fault_for_all_processes_of_its_host(rig: FarRig) -> None:
    (fault,) = rig.check_epoch({2: rig.link.cut})
    assert fault.cause in ("died", "failed_start")  # the first of them that is found may be about to start
    assert "is gone" in fault.detail
    rig.end_loader()


@pytest.mark.slow
def test_processes_that_fell_back_go_to_their_host_again_once_it_answers(
    rig: FarRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_hosts, "_PAUSE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        rig.link.lead(nobody.getsockname())
    (fault,) = rig.check_epoch({2: rig.link.cut})
    assert "is gone" in fault.detail
    assert until(lambda: not rig.agent.processes())
    until(lambda: _has_spoken(rig))
    assert rig.check_epoch() == []  # here; and a failback finds no room
    rig.link.lead(rig.agent.address)
    for _ in range(12):
        until(lambda: len(processes_of(rig.loader)) == 2 or _has_spoken(rig))  # a third one would be on its way
        if _all_there(rig):
            break
        assert rig.check_epoch() == []
    assert _all_there(rig)
    assert rig.check_epoch() == []
    assert _all_there(rig)
    rig.end_loader()


def _has_spoken(rig: FarRig) -> bool:
    """A process said something, or ended, since the last epoch."""
    (iterator,) = rig.loader._safe.iterators
    channels = [process.channel.fileno() for process in driver_of(iterator).processes.values()]
    return bool(select.select(channels, [], [], 0)[0])


def _all_there(rig: FarRig) -> bool:
    return len(rig.agent.processes()) == 2 == len(processes_of(rig.loader))


@pytest.mark.slow
def test_a_slow_link_costs_time_and_nothing_else(rig: FarRig) -> None:
    rig.link.delay = 0.05
    assert rig.check_epoch() == []
    rig.link.delay = 0.0
    assert len(rig.agent.processes()) == 2


@pytest.mark.slow
def test_a_link_that_is_silent_for_a_moment_heals(rig: FarRig) -> None:
    healing = threading.Timer(SILENCE / 3, rig.link.heal)
    healing.start()
    assert rig.check_epoch({2: rig.link.hold}) == []
    healing.join()


@pytest.mark.slow
def test_a_link_that_stays_silent_is_found_and_no_sample_is_to_blame(rig: FarRig) -> None:
    there = {process.pid for process in rig.agent.processes()}
    rig.link.hold()
    assert until(lambda: not there & {process.pid for process in rig.agent.processes()})
    assert gone(process.pid for process in processes_of(rig.loader))  # both sides have noticed, each by itself
    rig.link.heal()
    (fault,) = rig.check_epoch()
    assert fault.sample is None
    assert "nothing was heard" in fault.detail
    rig.end_loader()
