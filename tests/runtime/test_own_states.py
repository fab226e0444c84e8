"""Ambient states that differ from worker to worker are each worker's own, also where several share a process."""

from __future__ import annotations

import decimal
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset, get_worker_info

from safeloader import DataLoader, Policy, WorkerPool
from tests.runtime.harness import TORCHS, processes_of, seed

SEEN: dict[str, Callable[[], Any]] = {
    "environment": lambda: int(os.environ.get("SAFELOADER_TEST_OF", "-1")),
    "folder": lambda: len(Path.cwd().name),
    "threads": torch.get_num_threads,
    "default dtype": lambda: torch.get_default_dtype() is torch.float64,
    "gradients": torch.is_grad_enabled,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "umask": lambda: _umask(),
    "recursion": sys.getrecursionlimit,
    "decimal": lambda: decimal.getcontext().prec,
    "numpy's errors": lambda: np.geterr()["divide"] == "raise",
    "numpy's printing": lambda: np.get_printoptions()["precision"],
    "sys.path": lambda: sys.path.count("/of/a/worker"),
    "temporary files": lambda: len(Path(tempfile.tempdir or "/").name),
    "a signal": lambda: signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN,
}


class SetUp:
    """A ``worker_init_fn`` that sets all this, to something else in each worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, worker: int) -> None:
        here = self.folder / ("w" * (worker + 1))
        here.mkdir(exist_ok=True)
        os.chdir(here)
        os.environ["SAFELOADER_TEST_OF"] = str(worker)
        torch.set_num_threads(worker + 1)
        if worker:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.use_deterministic_algorithms(True)
            np.seterr(divide="raise")
            np.set_printoptions(precision=3)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.umask(0o20 + worker)
        sys.setrecursionlimit(2000 + worker)
        decimal.getcontext().prec = 20 + worker
        sys.path.extend(["/of/a/worker"] * worker)
        tempfile.tempdir = str(here)


class Sees(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, get_worker_info().id, *(int(see()) for see in SEEN.values())], dtype=torch.int64)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _rows(loader: Any) -> list[Any]:
    seed()
    return [batch.tolist() for batch in loader]


@pytest.fixture(scope="session")
def torchs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    set_up = SetUp(tmp_path_factory.mktemp("states"))
    return _rows(TorchLoader(Sees(), 4, num_workers=2, worker_init_fn=set_up, multiprocessing_context=TORCHS))


def _loader(folder: Path, **policy: Any) -> DataLoader[Any]:
    return DataLoader(Sees(), 4, num_workers=2, worker_init_fn=SetUp(folder), policy=Policy(**policy))


def test_the_workers_differ_in_all_of_them(torchs: list[Any]) -> None:
    one, other = torchs[0][0][2:], torchs[1][0][2:]
    assert [name for name, a, b in zip(SEEN, one, other, strict=True) if a == b] == []


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_each_worker_has_its_own(forked: None, tmp_path: Path, torchs: list[Any], processes: int) -> None:
    with _loader(tmp_path, max_processes=processes) as loader:
        assert _rows(loader) == torchs


def test_a_neighbour_that_takes_a_worker_in_keeps_its_own(forked: None, tmp_path: Path, torchs: list[Any]) -> None:
    with _loader(tmp_path) as loader:
        rows = []
        for number, batch in enumerate(loader):
            if number == 0:
                processes_of(loader)[1].kill()
            rows.append(batch.tolist())
        assert rows == torchs


def test_the_loaders_of_a_pool_have_their_own(forked: None, tmp_path: Path, torchs: list[Any]) -> None:
    with WorkerPool(1) as pool, _loader(tmp_path, pool=pool) as one, _loader(tmp_path, pool=pool) as other:
        rows: list[list[Any]] = [[], []]
        for pair in zip(one, other, strict=True):
            for mine, batch in zip(rows, pair, strict=True):
                mine.append(batch.tolist())
        assert rows == [torchs, torchs]
