"""The state after a survived fault is the state of an undisturbed run, and another program goes on from it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from safeloader import DataLoader, Policy
from tests.api.state_data import Growing, StatefulStream
from tests.fixtures_data import Draws, Orders, Stream
from tests.runtime.harness import _bytes, fault_of, kill_all, processes_of, seed
from tests.until import until

pytestmark = pytest.mark.usefixtures("forked")


def make(kind: str, orders: Orders | None = None, **options: Any) -> DataLoader[Any]:
    dataset: Any = {"map": Draws, "iterable": Stream, "growing": Growing, "stream": StatefulStream}[kind](24, orders)
    policy = Policy(batch_timeout=1.5, max_restarts=1000, max_processes=options.pop("max_processes", None))
    shuffle = True if kind in ("map", "growing") else None
    return DataLoader(dataset, 4, shuffle=shuffle, num_workers=2, name="train", policy=policy, **options)


def states(loader: DataLoader[Any]) -> tuple[list[bytes], list[dict[str, Any]]]:
    batches, told = [], []
    for batch in loader:
        batches.append(_bytes(batch))
        told.append(json.loads(json.dumps(loader.state_dict())))
    return batches, told


@pytest.mark.parametrize(
    ("kind", "deed"),
    [
        ("map", "SIGKILL"),
        ("map", "sleep"),
        pytest.param("map", "SIGSTOP", marks=pytest.mark.slow),  # a deadline each
        ("iterable", "SIGKILL"),
        pytest.param("iterable", "sleep", marks=pytest.mark.slow),
        ("iterable", "SIGSTOP"),
    ],
)
def test_the_state_after_a_fault_is_that_of_an_undisturbed_run(kind: str, deed: str, orders: Orders) -> None:
    seed()
    with make(kind, max_processes=0) as loader:
        undisturbed = states(loader)
    orders.give(*(("sample", 9) if kind == "map" else ("stream", "0-5")), deed)
    seed()
    with make(kind, orders) as loader:
        assert states(loader) == undisturbed
        fault_of(loader, cause={"SIGKILL": "died", "sleep": "hung", "SIGSTOP": "stopped"}[deed])


@pytest.mark.parametrize("kind", ["growing", "stream"])
def test_a_dataset_that_tells_its_state_is_restored_after_its_process_died(kind: str, orders: Orders) -> None:
    seed()
    with make(kind, max_processes=0, persistent_workers=True) as loader:
        undisturbed = [[_bytes(batch) for batch in loader] for _ in range(2)]
    seed()
    with make(kind, orders, persistent_workers=True, snapshot_every_n_steps=4) as loader:
        disturbed = []
        for _ in range(2):
            orders.give(*(("sample", 9) if kind == "growing" else ("stream", "1-9")), "SIGKILL")
            disturbed.append([_bytes(batch) for batch in loader])
        assert disturbed == undisturbed
        assert len(loader.report().faults) == 2


@pytest.mark.parametrize("every", [None, 1, 2, 6])
@pytest.mark.parametrize("kind", ["growing", "stream"])
def test_marks_of_any_frequency_lead_to_the_same_batches(kind: str, every: int | None) -> None:
    seed()
    with make(kind, max_processes=1, snapshot_every_n_steps=every, persistent_workers=True) as loader:
        first, told = states(loader)
        second, more = states(loader)
    for batches, state in [(first[4:], told[3]), (second[2:], more[1]), ([], more[-1])]:
        with make(kind, max_processes=0, persistent_workers=True) as loader:
            loader.load_state_dict(state)
            assert [_bytes(batch) for batch in loader] == batches


def test_a_dead_trainer_is_gone_on_with_under_faults(orders: Orders) -> None:
    seed()
    with make("map", orders) as loader:
        whole = []
        for number, batch in enumerate(loader):
            whole.append(_bytes(batch))
            if number == 1:
                state = loader.state_dict()
    orders.give("sample", 4, "SIGKILL")
    orders.give("sample", 8, "SIGKILL")
    with make("map", orders, max_processes=1) as loader:
        loader.load_state_dict(state)
        assert [_bytes(batch) for batch in loader] == whole[2:]


class _Shuffled(IterableDataset[torch.Tensor]):
    """Draws as soon as an iterator of it is made."""

    def __iter__(self) -> Any:
        return iter(torch.randperm(24))


@pytest.mark.parametrize("when", [0, 3])
@pytest.mark.parametrize("kind", ["map", "iterable", "shuffled"])
def test_living_workers_of_another_program_are_lost_in_their_first_epoch(kind: str, when: int) -> None:
    def made() -> DataLoader[Any]:
        if kind != "shuffled":
            return make(kind, persistent_workers=True)
        return DataLoader(_Shuffled(), 4, num_workers=2, name="train", persistent_workers=True)

    seed()
    with made() as loader:
        list(loader)
        state = loader.state_dict()
        whole = [_bytes(batch) for batch in loader]
    with made() as loader:
        loader.load_state_dict(state)
        got = []
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if number == when:
                kill_all(loader)
        assert got == whole
        assert {replay.outcome for replay in loader.report().replays} <= {"same", "unknown"}


def test_an_interrupt_while_a_batch_is_awaited_loses_no_batch(orders: Orders) -> None:
    seed()
    with make("map", max_processes=0) as loader:
        whole = [_bytes(batch) for batch in loader]
    seed()
    with make("map", max_processes=0) as loader:
        order = [int(row[0]) for batch in loader for row in batch]
    orders.give("sample", order[8], "wait batch")  # in the third batch
    seed()
    with make("map", orders) as loader:
        iterator = iter(loader)
        got = [_bytes(next(iterator)), _bytes(next(iterator))]
        orders.await_arrival("batch")
        threading.Thread(target=_interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
        state = loader.state_dict()
        orders.release("batch")
        got += [_bytes(batch) for batch in iterator]
        assert got == whole
    with make("map", max_processes=0) as loader:
        loader.load_state_dict(state)
        assert [_bytes(batch) for batch in loader] == whole[2:]


def _interrupt() -> None:
    """Interrupt the main thread once it waits for a batch."""
    main = threading.main_thread().ident or 0
    loop = os.path.join("trainer", "loop.py")

    def waits() -> bool:
        frames = traceback.extract_stack(sys._current_frames()[main])
        return any(frame.filename.endswith(loop) and frame.name == "wait" for frame in frames)

    until(waits)
    signal.pthread_kill(main, signal.SIGINT)


def test_a_state_can_be_taken_when_all_processes_were_killed_a_moment_ago() -> None:
    seed()
    with make("map", persistent_workers=True) as loader:
        next(iter(loader))
        iterator = iter(loader)  # the workers have not begun this epoch: the state waits for them
        for process in processes_of(loader):
            process.send_signal(signal.SIGKILL)
        state = loader.state_dict()
        whole = [_bytes(batch) for batch in iterator]
    with make("map", max_processes=0, persistent_workers=True) as loader:
        loader.load_state_dict(state)
        assert [_bytes(batch) for batch in loader] == whole
