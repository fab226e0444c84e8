"""Processes that are there before they are needed: standbys, and those that start when the loader is built."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

from safeloader import DataLoader, Policy
from safeloader.runtime import system
from tests.fixtures_data import Draws, Orders
from tests.runtime.harness import COUNT, driver_of, make, persistent_epochs, play, processes_of, run_epoch, seed
from tests.until import until


def idle(loader: DataLoader[Any]) -> list[psutil.Process]:
    """The standbys of a loader that are ready."""
    driver = driver_of(loader._iterator)
    books = driver.supervisor.fleet.processes.values()
    return [psutil.Process(driver.processes[p.id].pid) for p in books if p.standby and p.state.value == "ready"]


def wait_for_standby(loader: DataLoader[Any]) -> psutil.Process:
    """Until one is ready; the trainer hears of it when it asks for a batch, or looks."""
    return until(lambda: look(loader) or idle(loader))[0]


def look(loader: DataLoader[Any]) -> None:
    """The trainer hears what there is to hear."""
    driver_of(loader._iterator).loop.look(0.05)


def told_of(loader: DataLoader[Any], process: psutil.Process) -> bool:
    """Whether the report's last fault is this process's."""
    look(loader)
    return loader.report().faults[-1].process == process.pid


def stop(process: psutil.Process) -> None:
    process.send_signal(signal.SIGSTOP)
    until(lambda: process.status() == psutil.STATUS_STOPPED)


# ---------------------------------------------------------------- standbys


def test_a_standby_takes_over_whoever_is_lost_and_whatever_happens_to_the_standby(orders: Orders) -> None:
    policy = Policy(standby=1, start_method="forkserver", max_restarts=1000)
    with make(Draws(COUNT, orders), policy=policy, persistent_workers=True) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        standby = wait_for_standby(loader)
        orders.give("sample", 24, "SIGKILL")  # a worker dies
        assert run_epoch(loader, 1) == persistent_epochs()[1]
        fault = loader.report().faults[-1]
        assert (fault.cause, fault.sample, fault.action) == ("died", 24, "handed over")
        assert loader.report().restarts == 1
        hosts = driver_of(loader._iterator).supervisor.fleet.staff()
        assert standby.pid in {driver_of(loader._iterator).processes[p.id].pid for p in hosts}

        standby = wait_for_standby(loader)
        standby.kill()  # the standby dies
        assert run_epoch(loader, 2) == persistent_epochs()[2]
        until(lambda: told_of(loader, standby))
        fault = loader.report().faults[-1]
        assert (fault.cause, fault.detail, fault.action) == ("died", "SIGKILL", "standby")

        standby = wait_for_standby(loader)
        stop(standby)
        assert run_epoch(loader, 3) == persistent_epochs()[3]
        until(lambda: told_of(loader, standby))
        assert loader.report().faults[-1].cause == "stopped"
        assert loader.report().rung == 2


def test_a_standby_that_is_stopped_does_not_hold_up_the_one_it_stands_in_for(orders: Orders) -> None:
    policy = Policy(standby=1, start_method="forkserver", max_restarts=1000)
    with make(Draws(COUNT, orders), policy=policy, persistent_workers=True) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        standby = wait_for_standby(loader)
        seed(1)
        stream = iter(loader)
        first = [next(stream)]
        stop(standby)
        processes_of(loader)[0].kill()
        assert play([*first, *stream]) == persistent_epochs()[1]
        assert loader.report().causes == {"died": 1, "stopped": 1}


@pytest.mark.fresh
def test_a_spawned_standby_has_imported_what_the_dataset_needs(orders: Orders) -> None:
    with make(Draws(COUNT, orders), policy=Policy(standby=1), persistent_workers=True, num_workers=1) as loader:
        list(loader)
        standby = wait_for_standby(loader)
        cpu = standby.cpu_times().user
        processes_of(loader)[0].kill()
        list(loader)
        assert loader.report().faults[0].action == "handed over"
        assert standby.cpu_times().user - cpu < 0.5 * cpu  # most of its life it imported


# ---------------------------------------------------------------- started when the loader is built


def test_processes_started_beforehand_give_torchs_batches_and_generators() -> None:
    with make(Draws(COUNT), policy=Policy(prestart=True)) as loader:
        prestarted = loader._safe.starting.prestarted
        assert prestarted is not None
        pids = [process.pid for process in prestarted.processes]
        assert len(pids) == 2
        seed()
        stream = iter(loader)
        assert [process.pid for process in processes_of(loader)] == pids
        assert play(stream) == persistent_epochs()[0]
        assert run_epoch(loader) == persistent_epochs()[0]
        assert loader.report().faults == []


def test_the_dataset_that_counts_is_that_of_the_iteration() -> None:
    class Late(Draws):
        def __getitem__(self, index: int) -> Any:
            return self.count

    with make(Late(4), policy=Policy(prestart=True), num_workers=1, shuffle=False) as loader:
        loader.dataset.count = 8  # type: ignore[attr-defined]
        assert [batch.tolist() for batch in loader] == [[8] * 4] * 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_processes_that_die_or_stop_before_the_loader_iterates_cost_no_batch(number: signal.Signals) -> None:
    with make(Draws(COUNT), policy=Policy(prestart=True, start_method="forkserver", max_restarts=10)) as loader:
        prestarted = loader._safe.starting.prestarted
        assert prestarted is not None
        for process in prestarted.processes:
            until(lambda process=process: process.exited() or process.pid)
            os.kill(process.pid, number)
            if number == signal.SIGSTOP:  # the signal takes effect when the process's turn comes
                until(lambda process=process: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        assert run_epoch(loader) == persistent_epochs()[0]
        assert len(loader.report().faults) == 2
        assert loader.report().causes.keys() <= {
            "failed_start",
            "died",
        }  # as they said that they were ready, or not yet


def test_a_loader_that_never_iterates_leaves_nothing() -> None:
    make(Draws(COUNT), policy=Policy(prestart=True))
    with make(Draws(COUNT), policy=Policy(prestart=True, start_method="forkserver")):
        pass


# ---------------------------------------------------------------- turns

TAKES_A_TURN = """
import os, sys
from safeloader.runtime.start import import_slots
import_slots.PATIENCE = float(sys.argv[2])
with import_slots.turn(int(sys.argv[1]), 0):
    print("here", flush=True)
    sys.stdin.read()
"""


def _take_a_turn(file: int, patience: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKES_A_TURN, str(file), str(patience)],
        pass_fds=[file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("end", ["leaves", "dies", "stops"])
def test_a_turn_comes_when_the_one_before_leaves_dies_or_takes_too_long(end: str) -> None:
    file = system.memory_file("turns")
    first = _take_a_turn(file, 100.0)
    assert first.stdout is not None
    assert first.stdout.readline() == "here\n"
    second = _take_a_turn(file, 0.5 if end == "stops" else 100.0)
    assert second.stdout is not None
    assert second.stdin is not None
    if end == "leaves":
        first.communicate("")
    elif end == "dies":
        first.kill()
    else:
        first.send_signal(signal.SIGSTOP)
    assert second.stdout.readline() == "here\n"
    first.kill()
    second.communicate("")
    first.communicate()
    assert second.returncode == 0
    os.close(file)
