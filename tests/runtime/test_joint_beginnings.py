"""Workers that begin an epoch together, as mosaicml-streaming's do (`make test-clients` runs the real package).

The package here has its names and its protocol: barriers in shared memory, an epoch counter that the first worker moves
on, and a share of the epoch that it works out for all.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader import DataLoader, Policy, SettingsError, WorkerPool
from safeloader.runtime.child import joint_beginnings

PACKAGE = '''
import os, pathlib, random, signal, time, types
import torch

def generate_work(batching, dataset, world, epoch, sample):
    order = list(range(dataset.count))
    random.Random(epoch).shuffle(order)
    return Work(order[sample:], world.workers)

class Work:
    def __init__(self, order, workers):
        self.order, self.workers = order, workers
    def __getitem__(self, at):
        return types.SimpleNamespace(flatten=lambda: self.order[at[2]::self.workers])

class StreamingDataset(torch.utils.data.IterableDataset):
    batching_method, _shm_prefix_int = "", 7
    def __init__(self, folder, count, kills):
        self._filelock_root, self.count, self.kills = str(folder), count, kills
        (folder / "next_epoch").write_text("0")

    @property
    def next_epoch(self):
        return int(pathlib.Path(self._filelock_root, "next_epoch").read_text())

    def _wait_for_all(self, what):
        """A barrier that each worker passes once for each thing, as those who wait there do not look again."""
        me, root = self._unique_worker_world, pathlib.Path(self._filelock_root)
        name = f"{what}-{time.monotonic_ns()}-{me.worker_of_node}"
        (root / name).touch()
        while len({path.name.rpartition("-")[2] for path in root.glob(f"{what}-*")}) < me.workers:
            time.sleep(0.002)
        if (root / f"{what}.passed").exists():
            time.sleep(1000)  # the others have gone on
        if len(list(root.glob(f"{what}.by-*"))) == me.workers - 1:
            (root / f"{what}.passed").touch()
        (root / f"{what}.by-{me.worker_of_node}").touch()

    def _resume(self, world, epoch):
        return epoch, 0

    def _resume_incr_epoch(self):
        epoch, sample = self._resume(self._parallel_worker_world, self.next_epoch)
        self._wait_for_all(f"epoch{epoch}")
        if self._unique_worker_world.worker_of_node == 0:
            pathlib.Path(self._filelock_root, "next_epoch").write_text(str(epoch + 1))
        return epoch, sample

    def _get_work(self, epoch, sample):
        self._wait_for_all(f"work{epoch}")
        world = self._parallel_worker_world
        return generate_work("", self, world, epoch, sample)[0, 0, world.worker_of_rank].flatten()

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        world = dict(node=0, rank_of_node=0, worker_of_rank=info.id, worker_of_node=info.id, workers=info.num_workers)
        self._unique_worker_world = self._parallel_worker_world = types.SimpleNamespace(**world)
        for n in self._get_work(*self._resume_incr_epoch()):
            if n in self.kills and not os.path.exists(f"{self._filelock_root}/killed-{n}"):
                open(f"{self._filelock_root}/killed-{n}", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            yield n
'''


@pytest.fixture
def streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "streaming" / "base").mkdir(parents=True)
    (tmp_path / "streaming" / "base" / "dataset.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("streaming.base.dataset")
    for name in ("streaming.base.dataset", "streaming.base", "streaming"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_that_is_made_again_works_out_its_share_alone(
    persistent: bool, streaming: Any, tmp_path: Path
) -> None:
    orders = [streaming.generate_work("", Counted, Two, epoch, 0).order for epoch in range(2)]
    kills = [orders[0][8], orders[0][1], orders[1][0]]  # in mid-epoch, and in the first batch of each worker
    dataset = streaming.StreamingDataset(tmp_path, 24, kills)
    policy = Policy(batch_timeout=20, shadow=False, max_processes=1)  # one process for two would wait for ever
    with DataLoader(dataset, 2, num_workers=2, persistent_workers=persistent, policy=policy) as loader:
        given = [[n for batch in loader for n in batch.tolist()] for _ in range(2)]
        assert loader.report().causes == {"died": 3}
    for got, order in zip(given, orders, strict=True):
        shares = [order[0::2], order[1::2]]
        batches = [share[at : at + 2] for at in range(0, 12, 2) for share in shares]
        assert got == [n for batch in batches for n in batch]


@pytest.mark.usefixtures("forked")
def test_a_pool_with_fewer_processes_than_workers_is_refused(streaming: Any, tmp_path: Path) -> None:
    dataset = streaming.StreamingDataset(tmp_path, 24, [])
    with WorkerPool(1, start_method="forkserver") as pool:
        loader = DataLoader(dataset, 2, num_workers=2, policy=Policy(pool=pool))
        with pytest.raises(SettingsError, match="the pool has 1 processes for 2 of them"):
            iter(loader)


class Counted:
    count = 24


class Two:
    workers = 2


def test_only_such_a_dataset_or_what_holds_one_is_joint(streaming: Any, tmp_path: Path) -> None:
    dataset = streaming.StreamingDataset(tmp_path, 4, [])
    holder = Counted()
    assert not joint_beginnings.is_joint(holder)
    holder.inner = dataset  # type: ignore[attr-defined]
    assert joint_beginnings.is_joint(holder)
    assert joint_beginnings.is_joint(dataset)
    assert not joint_beginnings.is_joint([1, 2])
