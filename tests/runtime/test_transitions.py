"""Train, validate, train, save, train: what happens between epochs costs no batch, and no process."""

from __future__ import annotations

import copy
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader import Policy
from tests.fixtures_data import Draws, Orders
from tests.runtime.conftest import Rig
from tests.runtime.harness import (
    BATCH,
    COUNT,
    TORCHS,
    TorchLoader,
    make,
    persistent_epochs,
    play,
    processes_of,
    run_epoch,
    seed,
)

pytestmark = pytest.mark.usefixtures("forked")


def test_the_same_processes_serve_from_the_first_epoch_to_the_last(tmp_path: Path) -> None:
    expected = persistent_epochs()
    model = torch.nn.Linear(2, 2)
    with (
        make(Draws(COUNT), persistent_workers=True) as train,
        make(Draws(COUNT), persistent_workers=True, name="val") as val,
    ):
        pids: list[list[int]] = []
        for epoch in range(3):
            assert run_epoch(train, epoch) == expected[epoch]
            assert run_epoch(val, epoch).batches == expected[epoch].batches
            torch.save(copy.deepcopy(model.state_dict()), tmp_path / "checkpoint.pt")
            pids.append([process.pid for process in processes_of(train) + processes_of(val)])
        assert pids[0] == pids[1] == pids[2]
        assert train.report().faults == val.report().faults == []


@pytest.mark.parametrize("deed", ["SIGKILL", "SIGSTOP"])
def test_what_happens_to_idle_processes_costs_no_batch(rig: Rig, deed: str) -> None:
    rig.check_epoch()
    for process in processes_of(rig.loader):
        os.kill(process.pid, getattr(signal, deed))
    faults = rig.check_epoch()
    assert {fault.cause for fault in faults} == {"died" if deed == "SIGKILL" else "stopped"}
    assert len(faults) == 2
    assert rig.check_epoch() == []


def test_a_process_that_hangs_while_idle_is_found_by_its_deadline(rig: Rig) -> None:
    rig.orders.give("sample", 24, "later idle")
    assert rig.check_epoch() == []
    pid = rig.orders.await_arrival("idle")
    rig.orders.release("idle")
    (fault,) = rig.check_epoch()
    assert (fault.cause, fault.process) == ("hung", pid)
    assert rig.check_epoch() == []


# ---------------------------------------------------------------- other ways to iterate


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_only_the_first_batch_of_many_epochs_is_torchs(persistent: bool) -> None:
    def firsts(loader: Any) -> list[Any]:
        seed()
        return [play([next(iter(loader))]) for _ in range(3)]

    expected = firsts(TorchLoader(Draws(COUNT), BATCH, True, num_workers=2, persistent_workers=persistent,
                                  multiprocessing_context=TORCHS))  # fmt: skip
    with make(Draws(COUNT), persistent_workers=persistent) as loader:
        assert firsts(loader) == expected


def test_several_iterators_of_one_loader_live_side_by_side() -> None:
    def interleaved(loader: Any) -> Any:
        seed()
        one, two = iter(loader), iter(loader)
        return play(batch for pair in zip(one, two, strict=True) for batch in pair)

    expected = interleaved(TorchLoader(Draws(COUNT), BATCH, True, num_workers=2, multiprocessing_context=TORCHS))
    with make(Draws(COUNT)) as loader:
        assert interleaved(loader) == expected


def test_loaders_in_threads_survive_side_by_side(tmp_path: Path) -> None:
    played: dict[str, list[bytes]] = {}
    orders = Orders(tmp_path)
    orders.give("sample", 24, "SIGKILL")

    def train(name: str) -> None:
        generator = torch.Generator().manual_seed(1000)
        with make(Draws(COUNT, orders), generator=generator, name=name) as loader:
            played[name] = play(loader).batches

    def reference() -> list[bytes]:
        generator = torch.Generator().manual_seed(1000)
        return play(TorchLoader(Draws(COUNT), BATCH, True, num_workers=2, multiprocessing_context=TORCHS,
                                generator=generator)).batches  # fmt: skip

    threads = [threading.Thread(target=train, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = reference()
    assert played == {"one": expected, "two": expected}


def test_an_exception_in_the_loop_body_costs_the_next_epoch_nothing() -> None:
    def broken_off(loader: Any) -> Any:
        seed()
        with pytest.raises(KeyError):  # noqa: PT012
            for number, _ in enumerate(loader):
                if number == 3:
                    raise KeyError
        return run_epoch(loader, 1)

    torchs = TorchLoader(
        Draws(COUNT), BATCH, True, num_workers=2, persistent_workers=True, multiprocessing_context=TORCHS
    )
    expected = broken_off(torchs)
    with make(Draws(COUNT), persistent_workers=True, policy=Policy(batch_timeout=20)) as loader:
        assert broken_off(loader) == expected
