"""What was prefetched for an epoch that was broken off: left undone where nobody could tell, finished as torch does where
the generators would show it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader import DataLoader, Policy, WorkerPool
from safeloader.runtime.child.heartbeat import Heartbeat
from tests.fixtures_data import Draws
from tests.runtime.harness import BATCH, COUNT, driver_of, make, run_epoch, seed
from tests.until import until

pytestmark = pytest.mark.usefixtures("forked")


class Logged(torch.utils.data.Dataset[torch.Tensor]):
    """Writes down what is begun; the second batch waits at a gate."""

    def __init__(self, folder: Path) -> None:
        self.log, self.gate = str(folder / "log"), str(folder / "gate")

    def __len__(self) -> int:
        return 10 * BATCH

    def __getitem__(self, index: int) -> torch.Tensor:
        with open(self.log, "a") as log:
            log.write(f"{index}\n")
        if index == BATCH:
            until(lambda: os.path.exists(self.gate))
        return torch.rand(2) + index

    def batches(self) -> list[int]:
        """Those that were begun, in order."""
        with open(self.log) as log:
            return [int(line) // BATCH for line in log if int(line) % BATCH == 0]


@pytest.fixture
def data(tmp_path: Path) -> Logged:
    return Logged(tmp_path)


def one_worker(data: Logged, **options: Any) -> DataLoader[torch.Tensor]:
    return make(data, num_workers=1, prefetch_factor=4, persistent_workers=True, **options)


def leave_early(loader: DataLoader[Any], data: Logged) -> Any:
    """Leave the loop with the second batch in work and two behind it, and begin a new epoch."""
    stream = iter(loader)
    next(stream)
    until(lambda: data.batches() == [0, 1])
    stream = iter(loader)
    Path(data.gate).touch()
    return stream


@pytest.mark.parametrize(("sample_rng", "finished"), [(True, [0, 1]), (False, [0, 1, 2, 3, 4])])
def test_with_keyed_generators_only_what_is_in_work_is_finished(
    data: Logged, sample_rng: bool, finished: list[int]
) -> None:
    with one_worker(data, policy=Policy(sample_rng=sample_rng)) as loader:
        assert len(list(leave_early(loader, data))) == 10
    assert data.batches() == [*finished, *range(10)]


def test_on_a_pool_the_other_loader_is_not_kept_waiting_by_it(data: Logged) -> None:
    with WorkerPool(1) as pool, one_worker(data, policy=Policy(pool=pool, sample_rng=True)) as loader:
        stream = leave_early(loader, data)
        with make(Draws(COUNT), num_workers=1, policy=Policy(pool=pool)) as other:
            next(iter(other))
        list(stream)
    assert data.batches() == [0, 1, *range(10)]


def test_a_dataset_that_tells_its_state_loads_all_that_it_was_asked_for(data: Logged) -> None:
    class Stateful(Logged):
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    data = Stateful(Path(data.log).parent)
    with one_worker(data, policy=Policy(sample_rng=True)) as loader:
        list(leave_early(loader, data))
    assert data.batches() == [0, 1, 2, 3, 4, *range(10)]


def test_when_a_loader_ends_only_what_is_in_work_is_finished(data: Logged) -> None:
    loader = one_worker(data)
    stream = iter(loader)
    next(stream)
    until(lambda: data.batches() == [0, 1])
    (process,) = driver_of(stream).processes.values()

    def open_gate(page: Heartbeat) -> None:
        until(lambda: page.left)
        Path(data.gate).touch()

    thread = threading.Thread(target=open_gate, args=[process.page])
    thread.start()
    loader.close()
    thread.join()
    assert data.batches() == [0, 1]


def test_with_keyed_generators_the_next_epoch_does_not_show_how_far_the_one_before_came() -> None:
    later = []
    for batches in (3, 100):
        with make(Draws(COUNT), persistent_workers=True, policy=Policy(sample_rng=True)) as loader:
            seed()
            for number, _ in enumerate(loader, 1):
                if number == batches:
                    break
            later.append(run_epoch(loader, 1))
    assert later[0] == later[1]
