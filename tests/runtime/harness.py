"""The measure of every row: torch's own DataLoader with fresh processes, run once for each configuration."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc  # noqa: F401 - programs take it from here
import hashlib
import os  # noqa: F401 - and this
import pickle
import random
import signal  # noqa: F401 - and this
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader as TorchLoader

from safeloader import DataLoader, Policy
from safeloader.core.records import ProcessState
from safeloader.observe.report import Fault
from safeloader.runtime.start import import_slots
from tests.fixtures_data import Draws, InitFunction, Orders, Stream, UnpickleTrap, WithFacts  # noqa: F401 - programs take them from here
from tests.programs import ROOT, end, environment, program, run_script, start_script  # noqa: F401 - of all programs
from tests.shared import computed_once
from tests.until import until

COUNT = 46  # samples; the last batch is a short one
BATCH = 4
TORCHS = "forkserver"  # the start method of torch's own workers: the bytes are those of "spawn"


class Epoch(NamedTuple):
    """What came out of an epoch, to the byte, and the main process's generators after it."""

    batches: list[bytes]
    generators: str


def seed(epoch: int = 0) -> None:
    """The generators of the main process before an epoch."""
    torch.default_generator.manual_seed(
        1000 + epoch
    )  # torch.manual_seed keeps a call stack for each accelerator as well
    random.seed(2000 + epoch)
    np.random.seed(3000 + epoch)


def _generators() -> str:
    states = torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def _bytes(batch: Any) -> bytes:
    if isinstance(batch, torch.Tensor):
        return str((batch.dtype, tuple(batch.shape))).encode() + b"|" + batch.contiguous().numpy().tobytes()
    if isinstance(batch, dict):
        return b"".join(_bytes(key) + _bytes(value) for key, value in batch.items())
    if isinstance(batch, (list, tuple)):
        return b"".join(map(_bytes, batch))
    return repr(batch).encode()


def first_index(batch: bytes) -> int:
    """The index of the first sample of a batch of ``Draws``: the key of orders to its collate function."""
    return int.from_bytes(batch.partition(b"|")[2][:8], "little")


def play(batches: Iterable[Any]) -> Epoch:
    """Take everything; ``iter()`` draws from the generators, so they are looked at when all is over."""
    taken = [_bytes(batch) for batch in batches]
    return Epoch(taken, _generators())


DATASETS: dict[str, Callable[[], Any]] = {
    "draws": lambda: Draws(COUNT),
    "stream": lambda: Stream(COUNT),
    "facts": WithFacts,
}


@functools.cache
def _reference(dataset: str, epochs: int, options: tuple[tuple[str, Any], ...]) -> list[Epoch]:
    def compute() -> list[Epoch]:
        loader = TorchLoader(DATASETS[dataset](), multiprocessing_context=TORCHS, **dict(options))
        played = []
        for epoch in range(epochs):
            seed(epoch)
            played.append(play(loader))
        return played

    return computed_once(("runtime", pickle.dumps((dataset, epochs, options))), compute)


def reference(dataset: str = "draws", epochs: int = 1, **options: Any) -> list[Epoch]:
    """What torch's DataLoader gives with processes that are no forks of this one; epoch ``n`` begins after ``seed(n)``. Kept for the whole session."""
    asked = {"batch_size": BATCH, "num_workers": 2, "shuffle": dataset == "draws" or None, **options}
    return _reference(dataset, epochs, tuple(sorted(asked.items())))


def persistent_epochs(dataset: str = "draws") -> list[Epoch]:
    """The same two workers over many epochs. The first of them is the reference of most rows."""
    return reference(dataset, 40, persistent_workers=True)


def digest(played: Epoch) -> str:
    """An epoch in a few characters: what a program prints of it."""
    return hashlib.sha256(repr(played).encode()).hexdigest()[:16]


def make(dataset: Any, *, policy: Policy | None = None, **options: Any) -> DataLoader[Any]:
    """The loader under test, with the reference's arguments."""
    shuffle = True if isinstance(dataset, Draws) else None
    asked: dict[str, Any] = {"batch_size": BATCH, "num_workers": 2, "name": "train", "shuffle": shuffle, **options}
    return DataLoader(dataset, policy=policy, **asked)


def run_epoch(loader: Any, epoch: int = 0) -> Epoch:
    """Seed as the reference did, and take all batches."""
    seed(epoch)
    return play(loader)


def fault_of(loader: DataLoader[Any], **facts: Any) -> Fault:
    """The first fault of the report with these facts."""
    faults = loader.report().faults
    for fault in faults:
        if all(getattr(fault, name) == value for name, value in facts.items()):
            return fault
    raise AssertionError(f"no fault with {facts} in the report:\n{loader.report()}")


def processes_of(loader: DataLoader[Any]) -> list[psutil.Process]:
    """The processes of a loader that are there, of those that its drivers know, oldest first."""
    drivers = [driver_of(iterator) for iterator in loader._safe.iterators]
    processes = [driver.processes[n] for driver in drivers for n in sorted(driver.processes)]
    for process in processes:  # a fork server tells the pid a moment after it was asked for the process
        until(lambda process=process: process.pid or process.exited())
    return [psutil.Process(process.pid) for process in processes if psutil.pid_exists(process.pid)]


def is_settled(loader: DataLoader[Any]) -> bool:
    """Whether its processes have nothing left to do, as where a worker goes back to a new one between two epochs, and
    it has heard all there is to hear of them; it hears what there is now."""
    drivers = [driver_of(iterator) for iterator in loader._safe.iterators]
    for driver in drivers:
        driver.attend()
    processes = [process for driver in drivers for process in driver.processes.values()]
    records = [record for driver in drivers for record in driver.supervisor._books.processes.values()]
    at_rest = all(record.state is ProcessState.READY and not record.work for record in records)
    return at_rest and all(process.pid and not process.exited() for process in processes)


def driver_of(iterator: Any) -> Any:
    """What runs the processes of an iterator; the only look inside that these tests take."""
    return iterator._driver


@contextlib.contextmanager
def nobody_has_a_turn() -> Iterator[None]:
    """No process of a loader that starts now gets further than to its imports. One that is a fork may else be ready
    before a test has found it."""
    file, _ = import_slots.place()
    fcntl.lockf(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


def kill_all(loader: DataLoader[Any]) -> None:
    """SIGKILL to all processes of a loader."""
    for process in processes_of(loader):
        process.kill()


def gone(pids: Iterable[int], seconds: float = 20.0) -> bool:
    """Whether processes that are not ours end within the time; a zombie that nobody reaps has ended."""
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            pass
    return until(lambda: all(map(_has_ended, processes)), seconds)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
