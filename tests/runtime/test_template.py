"""A large dataset is read once, by a template that the processes are forked of: like read by each in all but what it costs."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from safeloader import DataLoader, Policy
from safeloader.runtime.by_value import rebuild
from safeloader.runtime.child.per_process import Asked
from safeloader.runtime.start import client
from safeloader.runtime.start.launcher import Launcher
from tests.fixtures_data import Draws, Orders, as_they_are
from tests.runtime.harness import (
    COUNT,
    driver_of,
    fault_of,
    gone,
    make,
    persistent_epochs,
    play,
    processes_of,
    run_epoch,
    seed,
)

FORKED = Policy(start_method="forkserver", batch_timeout=2.0, max_restarts=1000)
LARGE = [f"a string of its own, number {number}" for number in range(50_000)]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    """A server that all of these share."""
    launcher = Launcher("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_trainer", client._Trainer())
        launcher.server()
        yield
    launcher.close()


class Large(Draws):
    """The samples of ``Draws``, and a good deal besides. Who reads it leaves a file, unseen by Python."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(COUNT, orders)
        self.filling = LARGE

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if multiprocessing.parent_process() is not None:
            libc = ctypes.__dict__["CDLL"](None)  # not named: code that names a library has shadows
            libc.close(libc.creat(f"{self.orders.folder}/read-by-{libc.getpid()}".encode(), 0o600))
            order = f"{self.orders.folder}/unpickle-dataset"
            if os.path.exists(order) or os.path.exists(f"{order}.always"):
                self.orders.obey("unpickle", "dataset")

    @property
    def reads(self) -> int:
        return len(list(Path(self.orders.folder).glob("read-by-*")))


def template_of(loader: DataLoader[Any]) -> psutil.Process | None:
    """The parent of a loader's processes, if that is a template."""
    parents = {process.ppid() for process in processes_of(loader)}
    servers = {child.pid for child in psutil.Process().children()}
    assert len(parents) == 1
    (parent,) = parents
    return None if parent in servers else psutil.Process(parent)


# ---------------------------------------------------------------- like read by each


def test_it_is_read_once_and_the_batches_are_torchs(orders: Orders) -> None:
    dataset = Large(orders)
    with make(dataset, policy=FORKED, persistent_workers=True) as loader:
        for epoch in range(2):
            assert run_epoch(loader, epoch) == persistent_epochs()[epoch]
        template = template_of(loader)
        assert template is not None
        assert dataset.reads == 1
        orders.give("sample", 24, "exit 7")
        assert run_epoch(loader, 2) == persistent_epochs()[2]
        assert fault_of(loader, cause="died").detail == "exit code 7"
        assert template_of(loader) == template
        assert dataset.reads == 1
    assert gone([template.pid])


def test_a_replacement_comes_at_once_whatever_the_size(orders: Orders) -> None:
    """What took the template its time is not done again, by a process that stands ready neither."""
    dataset = Large(orders)
    with make(dataset, policy=FORKED, persistent_workers=True, shuffle=False) as loader:
        for _ in range(4):
            stream = iter(loader)
            next(stream)
            processes_of(loader)[0].kill()
            list(stream)
        assert dataset.reads == 1
        assert loader.report().causes == {"died": 4}


class Changes(Draws):
    """Each worker changes its own copy: a list, an array, a tensor, and numbers of a generator that came with it."""

    def __init__(self) -> None:
        super().__init__(COUNT)
        self.filling, self.seen = LARGE, ["none"]
        self.array, self.tensor = np.zeros(1 << 18), torch.zeros(1 << 18)
        self.generators = np.random.default_rng(1), random.Random(2), torch.Generator().manual_seed(3)

    def __getitem__(self, index: int) -> Any:
        self.seen.append(str(index))
        self.filling[index] += "!"
        self.array[index] += 1
        self.tensor += 1
        numpys, pythons, torchs = self.generators
        drawn = int(numpys.integers(1 << 20)), pythons.random(), torch.rand((), generator=torchs).item()
        return (len(self.seen), self.filling[index], self.array.sum(), self.tensor.sum().item(), *drawn)


def test_each_worker_has_its_own_copy() -> None:
    """The same as where each process reads for itself, over two epochs, and after a loss."""

    def loader_of(method: Any) -> DataLoader[Any]:
        policy = Policy(start_method=method, shadow=True)
        return make(Changes(), policy=policy, shuffle=False, collate_fn=as_they_are, persistent_workers=True)

    with loader_of("spawn") as loader:
        wanted = [list(loader), list(loader)]
    with loader_of("forkserver") as loader:
        assert list(loader) == wanted[0]
        assert template_of(loader) is not None
        stream = iter(loader)
        found = [next(stream) for _ in range(6)]
        processes_of(loader)[0].kill()
        assert [*found, *stream] == wanted[1]


class Told(Draws):
    """What the program put into it."""

    def __init__(self) -> None:
        super().__init__(4)
        self.filling, self.told = LARGE, 0

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(self.told)


def test_what_changes_in_it_between_epochs_is_seen() -> None:
    dataset = Told()
    with make(dataset, policy=FORKED, num_workers=1) as loader:
        templates = set()
        for told in range(3):
            dataset.told = told
            stream = iter(loader)
            assert next(stream).tolist() == [told] * 4
            templates.add(template_of(loader))
            del stream
        assert None not in templates
        assert len(templates) == 3
    assert gone([template.pid for template in templates if template is not None])


MODULE = """
class Numbers:
    def __init__(self): self.filling = [str(n) for n in range(200_000)]
    def __len__(self): return 4
    def __getitem__(self, index): return {}
"""


def test_an_edit_of_a_module_is_told_and_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "numbers_of_a_template.py"
    path.write_text(MODULE.format(1))
    monkeypatch.syspath_prepend(tmp_path)
    numbers: Any = __import__("numbers_of_a_template").Numbers()
    with make(numbers, policy=FORKED, num_workers=1, persistent_workers=True) as loader:
        assert next(iter(loader)).tolist() == [1] * 4
        template = template_of(loader)
        path.write_text(MODULE.format(20))
        processes_of(loader)[0].kill()
        assert next(iter(loader)).tolist() == [20] * 4
        assert template_of(loader) not in (None, template)
        assert loader.report().code_changed == [str(path)]


# ---------------------------------------------------------------- faults of the template


def test_a_template_that_is_killed_hurts_no_process_and_is_replaced(orders: Orders) -> None:
    dataset = Large(orders)
    with make(dataset, policy=FORKED, persistent_workers=True) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        pids = {process.pid for process in processes_of(loader)}
        template = template_of(loader)
        assert template is not None
        template.kill()
        assert gone([template.pid])
        assert run_epoch(loader, 1) == persistent_epochs()[1]
        assert {process.pid for process in processes_of(loader)} == pids
        assert loader.report().faults == []
        orders.give("sample", 24, "exit 7")
        assert run_epoch(loader, 2) == persistent_epochs()[2]
        assert "was gone" in fault_of(loader, cause="died").detail
        assert dataset.reads == 2


def test_a_template_that_is_stopped_is_replaced(orders: Orders) -> None:
    with make(Large(orders), policy=FORKED) as loader:
        seed()
        stream = iter(loader)
        first = [next(stream)]
        template = template_of(loader)
        assert template is not None
        template.send_signal(signal.SIGSTOP)
        processes_of(loader)[0].kill()
        assert play([*first, *stream]) == persistent_epochs()[0]
        assert loader.report().causes == {"died": 1}
    assert gone([template.pid])


@pytest.mark.parametrize("deed", ["SIGKILL", "exit 0", "SIGSEGV", "MemoryError"])
def test_a_template_that_is_lost_while_it_reads_costs_time(deed: str, orders: Orders) -> None:
    dataset = Large(orders)
    orders.give("unpickle", "dataset", deed)
    with make(dataset, policy=FORKED) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        assert loader.report().faults == []
        assert dataset.reads == (3 if deed == "MemoryError" else 2)  # an error of the objects is no loss: each reads


def test_what_kills_whoever_reads_it_is_blamed_as_ever(orders: Orders) -> None:
    """Two templates, and then the processes themselves, as many as it takes: the fault is not the template's."""
    orders.give("unpickle", "dataset", "exit 7", always=True)
    policy = Policy(start_method="forkserver", on_bad_sample="raise", max_restarts=3)
    with make(Large(orders), policy=policy, num_workers=1) as loader, pytest.raises(Exception, match="exit code 7"):
        list(loader)


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["SIGSTOP", "sleep", "lock in C"])
def test_a_template_that_hangs_while_it_reads_costs_the_startup_timeout(deed: str, orders: Orders) -> None:
    orders.give("unpickle", "dataset", deed)
    with make(Large(orders), policy=Policy(start_method="forkserver", startup_timeout=10.0)) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        assert loader.report().causes.keys() <= {"failed_start"}


def test_server_and_template_are_killed_together(orders: Orders) -> None:
    policy = Policy(start_method="forkserver", accelerators=True)  # a server of its own
    with make(Large(orders), policy=policy, persistent_workers=True) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        template = template_of(loader)
        assert template is not None
        for process in (template.parent(), template, processes_of(loader)[0]):
            assert process is not None
            process.kill()
        assert run_epoch(loader, 1) == persistent_epochs()[1]
        assert loader.report().causes == {"died": 1}


# ---------------------------------------------------------------- where each reads for itself


class Asks(Draws):
    """What rebuilds it makes something that is another in each process."""

    def __init__(self, deed: Callable[[], Any]) -> None:
        super().__init__(4)
        self.filling, self.deed = LARGE, deed

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.made = self.deed() if multiprocessing.parent_process() is not None else None


def _thread() -> None:
    threading.Thread(target=time.sleep, args=(10_000,), daemon=True).start()


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        (os.getpid, "calls getpid"),
        (_thread, "starts a thread"),
        (lambda: os.eventfd(0), "holds anon_inode:[eventfd] open"),
        (lambda: np.random.Generator(np.random.PCG64(7)), "makes a random generator (PCG64)"),
    ],
    ids=["pid", "thread", "descriptor", "generator"],
)
def test_what_would_not_be_the_same_is_left_to_each_process(
    deed: Callable[[], Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "safeloader")
    with make(Asks(deed), policy=FORKED, shuffle=False) as loader:
        for _ in range(2):
            stream = iter(loader)
            next(stream)
            assert template_of(loader) is None
            del stream
    told = [record.getMessage() for record in caplog.records if "SL156" in record.getMessage()]
    assert told == [f"train: each process reads the dataset for itself: reading it {why} [SL156]"]


def _claim() -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir("/tmp")


PER_PROCESS: dict[str, Callable[[], Any]] = {
    "urandom": lambda: os.urandom(4), "uuid1": uuid.uuid1, "uuid4": uuid.uuid4, "time": time.time,
    "clock": time.perf_counter, "date": datetime.now, "folder": lambda: os.rmdir(tempfile.mkdtemp()),
    "name": lambda: multiprocessing.current_process().name, "python": random.random, "numpy": np.random.rand,
    "torch": lambda: torch.rand(2), "seeded by the system": lambda: np.random.default_rng().integers(9),
    "a generator": lambda: random.Random().random(), "torch's": lambda: torch.Generator().seed(),
    "a file": lambda: open(os.devnull).close(), "the first": _claim,
}  # fmt: skip


@pytest.mark.parametrize("name", PER_PROCESS)
def test_what_is_another_in_each_process_is_noticed(name: str) -> None:
    with Asked(shares=False) as asked:
        PER_PROCESS[name]()
    assert asked.what


def test_what_is_the_same_in_each_process_is_not() -> None:
    with Asked(shares=False) as asked:
        assert [
            os.path.exists("/"),
            sorted([2, 1]),
            torch.ones(2).sum(),
            np.arange(3).sum(),
            multiprocessing.parent_process(),
        ]
        rebuild.random_generator(np.random.default_rng, ())  # its state follows
    assert asked.what == ""


def test_code_that_may_write_into_what_is_shared_is_noticed() -> None:
    with Asked(shares=True) as asked:
        _nothing()
    assert asked.what == "shares memory or locks, and runs code (_nothing)"


def _nothing() -> None:
    pass


def test_small_datasets_have_no_template() -> None:
    with make(Draws(COUNT), policy=FORKED) as loader:
        stream = iter(loader)
        next(stream)
        assert driver_of(stream).loop._templates is None
        assert template_of(loader) is None
