"""When nothing moves, a line says who holds the run, once, and another that it goes on."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader import DataLoader, Policy
from safeloader.observe import stall
from tests.fixtures_data import Draws, Orders
from tests.held_by import held_by
from tests.until import until

pytestmark = pytest.mark.usefixtures("forked")

SOON = Policy(stall_report=0.3, batch_timeout=60)


class Heard(logging.Handler):
    """Lines of the log, each of which can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._came = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._came:
            self.lines.append(record.getMessage())
            self._came.notify_all()

    def wait_for(self, words: str) -> str:
        def found() -> str | None:
            return next((line for line in self.lines if words in line), None)

        with self._came:
            line = self._came.wait_for(found, 30)
        assert line, f"{words!r} is not in {self.lines}"
        return line


@pytest.fixture(autouse=True)
def _loaders_that_others_left_are_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch is one for a program, and a loader that lives on in a traceback counts."""
    monkeypatch.setattr(stall._the_watch, "_watched", weakref.WeakKeyDictionary())


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logging.getLogger("safeloader").addHandler(handler)
    yield handler
    logging.getLogger("safeloader").removeHandler(handler)


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path)


def _when_told(heard: Heard, words: str, then: Callable[[], object]) -> threading.Thread:
    """A thread, since the main one is to stand still."""

    def listen() -> None:
        heard.wait_for(words)
        then()

    thread = threading.Thread(target=listen)
    thread.start()
    return thread


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_stalls_is_named_with_worker_and_sample(heard: Heard, orders: Orders, workers: int) -> None:
    orders.give("sample", 9, "wait stuck")
    loader = DataLoader(Draws(20, orders), 4, num_workers=workers, policy=SOON, name="train")
    batches = iter(loader)
    stuck = "has worked on sample 9" if workers else "in _wait"
    helper = _when_told(heard, stuck, lambda: (orders.await_arrival("stuck"), orders.release("stuck")))
    assert len(list(batches)) == 5
    helper.join()
    line = heard.wait_for(stuck)
    assert "train: no batch for" in line
    if workers:
        assert "the program waits for batch 2 of epoch 0; worker 0 (pid " in line
    else:
        assert "the program is in it at fixtures_data.py:" in line
    assert "train: goes on, after standing still for" in heard.wait_for("goes on")
    assert sum(stuck in line for line in heard.lines) == 1
    loader.close()


def test_a_training_step_that_stalls_is_named_with_its_line(heard: Heard) -> None:
    loader = DataLoader(Draws(20), 4, num_workers=2, policy=Policy(stall_report=0.3, max_processes=0), name="train")
    told = threading.Event()
    helper = _when_told(heard, "the training step has held", told.set)

    def step() -> None:
        assert told.wait(30)

    for number, _ in enumerate(loader):
        if number == 2:
            step()
    helper.join()
    assert "at test_stall.py:" in (line := heard.wait_for("the training step has held"))
    assert "in step; " in line
    assert "the loader does not hold it up" in line
    heard.wait_for("goes on")
    loader.close()


def test_a_program_that_stalls_between_epochs_is_named_with_its_line(heard: Heard, tmp_path: Path) -> None:
    loader = DataLoader(Draws(4), 4, policy=SOON, name="val")
    list(loader)
    line = heard.wait_for("no epoch is under way")
    assert "the program is at test_stall.py:" in line
    list(loader)
    heard.wait_for("goes on")


class Waiting:
    """A sampler that stands still at its 24th index until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __len__(self) -> int:
        return 32

    def __iter__(self) -> Iterator[int]:
        for index in range(32):
            if index == 24:
                self.go_on.wait(60)
            yield index


def test_a_sampler_that_stalls_is_named_with_its_line(heard: Heard) -> None:
    sampler = Waiting()
    with DataLoader(Draws(32), 4, sampler=sampler, num_workers=1, policy=Policy(stall_report=0.2)) as loader:
        thread = _when_told(heard, "the sampler was asked for the next indices", sampler.go_on.set)
        assert len(list(loader)) == 8
        thread.join()
    line = heard.wait_for("the sampler was asked")
    assert "test_stall.py:" in line
    assert "in __iter__" in line


def _nobody_is_watched() -> None:
    """The watch's thread may be looking at a loader; who else holds one is told."""
    try:
        until(lambda: len(stall._the_watch._watched) == 0)
    except AssertionError as error:
        pulse = next(iter(stall._the_watch._watched), None)
        raise AssertionError(held_by(pulse)) from error


def test_a_loader_that_is_gone_is_not_watched(heard: Heard) -> None:
    loader = DataLoader(Draws(4), 4, policy=SOON, name="gone")
    list(loader)
    assert loader._safe.recorder.pulse in stall._the_watch._watched
    del loader
    _nobody_is_watched()


def test_a_loader_that_stalled_is_gone_with_its_last_user(heard: Heard) -> None:
    gc.disable()
    try:
        loader = DataLoader(Draws(4), 4, policy=SOON, name="stalled")
        list(loader)
        heard.wait_for("no batch has been asked for")
        del loader
        _nobody_is_watched()
    finally:
        gc.enable()


def test_the_report_tells_how_the_consumer_waited(orders: Orders) -> None:
    orders.give("sample", 9, "sleep 0.5")
    loader = DataLoader(Draws(20, orders), 4)
    list(loader)
    waits = loader.report().waits
    assert waits.batches == 5
    assert waits.p99 * 1.2 >= 0.5
    assert waits.seconds >= 0.5
    assert waits.p50 < 0.5
    assert 0 < waits.ready < 1
    assert "waiting for data: " in str(loader.report())
    assert loader.report().to_dict()["waits"]["batches"] == 5


def test_the_bar_of_the_environment_shows_every_pass(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("SAFELOADER_PROGRESS", "1")
    monkeypatch.setenv("RANK", "0")
    train = DataLoader(
        Draws(8), 4, num_workers=2, policy=Policy(max_processes=0), name="train", persistent_workers=True
    )
    val = DataLoader(Draws(8), 4, name="val")
    for _ in train:
        list(val)
    for _ in train:
        break
    list(train)
    train.close()
    lines = [line.partition(" in ")[0] for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "train, epoch 0 begins: 2 batches",
        "val, epoch 0 begins: 2 batches",
        "val, epoch 0: 2 batches",
        "val, epoch 1 begins: 2 batches",
        "val, epoch 1: 2 batches",
        "train, epoch 0: 2 batches",
        "train, epoch 1 begins: 2 batches",
        "train, epoch 1 left early after 1 of 2 batches",
        "train, epoch 2 begins: 2 batches",
        "train, epoch 2: 2 batches",
    ]
