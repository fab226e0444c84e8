"""Processes are killed and stopped from outside, at moments that the dataset does not choose."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy
from tests.fixtures_data import Draws, Orders, Pictures
from tests.runtime.conftest import Rig
from tests.runtime.harness import (
    COUNT,
    driver_of,
    gone,
    kill_all,
    make,
    persistent_epochs,
    play,
    processes_of,
    reference,
    run_epoch,
    seed,
)
from tests.until import is_in, until


def test_all_processes_killed_at_once_cost_no_batch(rig: Rig) -> None:
    faults = rig.check_epoch({3: lambda: kill_all(rig.loader)})
    assert len(faults) >= 2
    assert {fault.worker for fault in faults} <= {0, 1, None}  # None: one that had taken in the other's worker
    assert {fault.detail for fault in faults} == {"SIGKILL"}


@pytest.mark.usefixtures("forked")
def test_a_process_killed_between_two_epochs_costs_the_next_one_no_batch(rig: Rig) -> None:
    victim = processes_of(rig.loader)[0]
    victim.kill()
    assert gone([victim.pid])
    (fault,) = rig.check_epoch()
    assert (fault.process, fault.cause, fault.detail, fault.batch) == (victim.pid, "died", "SIGKILL", None)


@pytest.mark.usefixtures("forked")
def test_a_process_stopped_between_two_epochs_is_found_out(rig: Rig) -> None:
    victim = processes_of(rig.loader)[0]
    victim.send_signal(signal.SIGSTOP)
    until(lambda: victim.status() == psutil.STATUS_STOPPED)
    assert "stopped" in {fault.cause for fault in rig.check_epoch() if fault.process == victim.pid}


@pytest.mark.usefixtures("forked")
def test_processes_killed_after_they_finished_and_before_the_batch_is_read_cost_no_batch(rig: Rig) -> None:
    def kill_when_a_batch_is_ready() -> None:
        processes = driver_of(rig.loader._iterator).processes.values()
        assert select.select([process.channel.socket for process in processes], [], [], 60)[0]
        kill_all(rig.loader)

    faults = rig.check_epoch({5: kill_when_a_batch_is_ready})
    assert {fault.detail for fault in faults} == {"SIGKILL"}


@pytest.mark.usefixtures("forked")
def test_a_finished_batch_outlives_the_process_that_made_it(orders: Orders) -> None:
    """Nothing of the second batch has to be loaded again: it lay finished in memory that is the trainer's."""
    orders.give("sample", 8, "wait third")
    loader = make(Draws(COUNT, orders), shuffle=False, num_workers=1, prefetch_factor=3)
    stream = iter(loader)
    next(stream)
    pid = orders.await_arrival("third")  # the second batch is finished
    os.kill(pid, signal.SIGKILL)
    orders.give("sample", 4, "ValueError")  # would be raised if it were loaded again
    assert next(stream)[:, 0].tolist() == [4, 5, 6, 7]
    orders.withdraw()
    assert [batch[0, 0].item() for batch in stream] == list(range(8, COUNT, 4))


@pytest.mark.fresh
def test_a_process_killed_while_it_starts_is_replaced(orders: Orders) -> None:
    loader = make(Draws(COUNT, orders))
    seed()
    stream = iter(loader)
    killed = {process.pid for process in processes_of(loader)}
    kill_all(loader)
    assert play(stream) == persistent_epochs()[0]
    faults = loader.report().faults
    assert {fault.process for fault in faults} == killed
    assert {(fault.cause, fault.detail, fault.batch) for fault in faults} == {("failed_start", "SIGKILL", None)}


@pytest.mark.usefixtures("forked")
def test_a_process_killed_while_it_writes_a_large_batch_spoils_no_byte(orders: Orders) -> None:
    """Batches of 40 MB: killed at a random moment of many, the next process writes the same lease anew."""
    generator = random.Random(5)
    expected = [sum(index % 251 for index in range(at, at + 4)) * 10_000_000 for at in range(0, 48, 4)]
    loader = make(Pictures(48, 10_000_000, orders), policy=Policy(max_restarts=1000))
    sums = []
    for number, batch in enumerate(loader):
        sums.append(int(batch.sum(dtype=batch.new_empty(0).long().dtype)))
        if number in (2, 7):
            victim = generator.choice(processes_of(loader))
            before = victim.cpu_times().user
            while victim.cpu_times().user == before and victim.is_running():  # it is at work now
                if victim.status() == psutil.STATUS_SLEEPING:
                    break
            victim.kill()
    assert sums == expected
    assert len(loader.report().faults) == 2


@pytest.mark.usefixtures("forked")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4:UserWarning")
def test_four_workers_on_fewer_processes_bear_the_same_faults(orders: Orders) -> None:
    (expected,) = reference(num_workers=4)
    for processes in (1, 2):
        loader = make(Draws(COUNT, orders), num_workers=4, policy=Policy(max_processes=processes))
        orders.give("sample", 24, "SIGKILL")
        seed()
        stream = iter(loader)
        first = [next(stream) for _ in range(3)]
        assert len(processes_of(loader)) == processes
        kill_all(loader)
        assert play([*first, *stream]) == expected
        assert len(loader.report().faults) >= 2
        assert loader.report().rung == processes


@pytest.mark.usefixtures("forked")
def test_a_loader_that_is_not_in_order_delivers_each_sample_once(orders: Orders) -> None:
    loader = make(Draws(COUNT, orders), in_order=False, policy=Policy(max_restarts=100))
    orders.give("sample", 24, "SIGKILL")
    seen: list[int] = []
    for number, batch in enumerate(loader):
        seen += batch[:, 0].tolist()
        if number == 4:
            kill_all(loader)
    assert sorted(seen) == list(range(COUNT))
    assert len(loader.report().faults) >= 3


@pytest.mark.usefixtures("forked")
def test_an_exception_out_of_a_signal_handler_costs_no_batch(orders: Orders) -> None:
    """Ctrl-C in a notebook, say, while the trainer waits for a batch: the next call goes on where this one was."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    trainer = threading.get_ident()

    def waits() -> bool:
        """For the batch with that sample: whatever came before it has been taken, since it stands still."""
        still.append((taken, is_in(trainer, "_next_data")))
        return still[-100:] == [(taken, True)] * 100

    def come_between() -> None:
        orders.await_arrival("there")
        until(waits)
        os.kill(os.getpid(), signal.SIGUSR1)

    still: list[tuple[int, bool]] = []
    taken = 0
    loader = make(Draws(COUNT, orders))
    interrupted = 0

    def stream() -> Iterator[torch.Tensor]:
        nonlocal interrupted, taken
        batches = iter(loader)
        while True:
            try:
                batch = next(batches)
            except KeyboardInterrupt:
                interrupted += 1
                orders.release("there")
            except StopIteration:
                return
            else:
                taken += 1
                yield batch

    before = signal.signal(signal.SIGUSR1, interrupt)
    orders.give("sample", 24, "wait there")
    thread = threading.Thread(target=come_between)
    thread.start()
    try:
        seed()
        assert play(stream()) == persistent_epochs()[0]
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert interrupted == 1
    assert loader.report().faults == []


class LongLists:
    """Batches of very many indices: far more than a channel holds at once."""

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(12):
            yield list(range(number, 400_000 + number))

    def __len__(self) -> int:
        return 12


class Sums(Dataset[Any]):
    """Fetches a batch at once, and says what it was asked for."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders

    def __getitem__(self, index: int) -> int:
        return index

    def __getitems__(self, indices: list[int]) -> list[int]:
        self.orders.obey("sums", indices[0])
        return [indices[0], len(indices), sum(indices)]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("deed", ["SIGKILL", "SIGSTOP"])
def test_messages_that_do_not_fit_into_the_channel_hold_nobody_up(orders: Orders, deed: str) -> None:
    """The process dies, or stops, while the next message to it is half sent."""
    orders.give("sums", 1, deed)
    orders.give("sums", 6, deed)
    sampler: Any = LongLists()
    loader: DataLoader[Any] = DataLoader(
        Sums(orders), batch_sampler=sampler, num_workers=2, policy=Policy(batch_timeout=2.0, max_restarts=100)
    )
    got = [batch.tolist() for batch in loader]
    assert got == [[n, 400_000, sum(range(n, 400_000 + n))] for n in range(12)]
    assert len(loader.report().faults) >= 2


@pytest.mark.usefixtures("forked")
def test_samples_without_batches_are_torchs_after_a_fault(orders: Orders) -> None:
    (expected,) = reference(batch_size=None)
    orders.give("sample", 24, "exit 0")
    loader = make(Draws(COUNT, orders), batch_size=None)
    assert run_epoch(loader) == expected
    assert loader.report().faults[0].sample == 24


@pytest.mark.usefixtures("forked")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_pinned_batches_are_torchs_after_a_fault(orders: Orders) -> None:
    orders.give("sample", 24, "SIGKILL")
    loader = make(Draws(COUNT, orders), pin_memory=True)
    assert run_epoch(loader) == persistent_epochs()[0]
