"""A dataset that works ahead writes into the leases of tasks that wait: nothing is copied, and nothing changes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader import DataLoader, Policy, WorkerPool
from safeloader.runtime.child import lookahead
from safeloader.runtime.memory import collate
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.memory.slot_writer import SlotWriter
from tests.until import until

COUNT, SIZE = 30, 5000
Item = tuple[torch.Tensor, bool, bool]


class WorksAhead(torch.utils.data.Dataset[Item]):
    """``[n]`` is (values, made ahead in a lease, leases can still be written in place); what is ordered happens at 7, but keeping at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.ready: dict[int, torch.Tensor] = {}
        self.kept: list[torch.Tensor] = []

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Item:
        if index == 7:
            self._obey()
        for task in self._waiting(index):
            (memory,) = task.reserve([SIZE * 4])
            self.ready[task.indices] = memory.view(torch.float32).copy_(values(task.indices))
        if self.ready and os.path.exists(keep := os.path.join(self.folder, "keep")):
            os.unlink(keep)
            self.kept += self.ready.values()
        writer = collate._writer
        made = self.ready.pop(index, None)
        return values(index) if made is None else made, made is not None, writer is None or writer.in_place

    def _waiting(self, index: int) -> list[lookahead.WaitingTask]:
        """At the beginning of an epoch some will come: the trainer sends four tasks before it hears of any. Who does
        again what one did that was killed is sent none before it is done with it."""
        if index == 0 and lookahead._source is not None and not os.path.exists(os.path.join(self.folder, "killed")):
            return until(lambda: lookahead.waiting(self._recall))
        return lookahead.waiting(self._recall)

    def _recall(self) -> None:
        self.ready.clear()
        Path(self.folder, "recalled").touch()

    def _obey(self) -> None:
        for order in os.listdir(self.folder):
            if order in ("kill", "raise", "wait"):
                os.unlink(os.path.join(self.folder, order))
                if order == "kill":
                    Path(self.folder, "killed").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if order == "raise":
                    raise KeyError("7 is not liked")
                if order == "wait":
                    until(lambda: not os.path.exists(os.path.join(self.folder, "closed")))


def values(index: int) -> torch.Tensor:
    return torch.arange(SIZE, dtype=torch.float32) * (index + 1)


def loader_of(folder: Path, **options: Any) -> DataLoader[Item]:
    policy = Policy(sample_rng=True, **options.pop("rules", {}))
    return DataLoader(
        WorksAhead(folder), batch_size=None, num_workers=1, prefetch_factor=4, persistent_workers=True,
        multiprocessing_context="spawn", policy=policy, **options,
    )  # fmt: skip


def check(batches: list[Item], first: int = 0) -> list[bool]:
    """Every batch is right and none was changed since; returns which were made ahead."""
    for number, (batch, _, _) in enumerate(batches, first):
        assert torch.equal(batch, values(number)), number
    return [made for _, made, _ in batches]


def test_what_was_made_ahead_arrives_and_stays_as_it_was_made(tmp_path: Path) -> None:
    with loader_of(tmp_path) as loader:
        epochs = [list(loader) for _ in range(3)]
    for epoch in epochs:
        assert any(check(epoch))
        assert all(in_place for _, _, in_place in epoch), "nothing else kept the leases"


def test_a_killed_process_takes_nothing_with_it_that_was_made_ahead(tmp_path: Path) -> None:
    with loader_of(tmp_path) as loader:
        (tmp_path / "kill").touch()
        assert any(check(list(loader)))
        assert [fault.cause for fault in loader.report().faults] == ["died"]


def test_after_an_error_the_batches_that_were_made_ahead_still_come(tmp_path: Path) -> None:
    with loader_of(tmp_path) as loader:
        (tmp_path / "raise").touch()
        stream = iter(loader)
        check([next(stream) for _ in range(7)])
        with pytest.raises(KeyError, match="7 is not liked"):
            next(stream)
        check(list(stream), first=8)


def test_a_dataset_that_keeps_the_memory_does_not_see_or_change_later_batches(tmp_path: Path) -> None:
    with loader_of(tmp_path) as loader:
        (tmp_path / "keep").touch()
        check(list(loader))
        later = list(loader)
    check(later)
    assert not any(in_place for _, _, in_place in later)


def test_before_a_lease_serves_another_batch_the_dataset_is_told_to_leave_it(tmp_path: Path) -> None:
    with loader_of(tmp_path) as loader:
        stream = iter(loader)
        kept = [next(stream) for _ in range(3)]
        (tmp_path / "closed").touch()
        (tmp_path / "wait").touch()
        kept += [next(stream) for _ in range(4)]
        until(lambda: not (tmp_path / "wait").exists())  # 7 is in work, and what is behind it has not begun
        stream = iter(loader)
        (tmp_path / "closed").unlink()
        check(list(stream))
        check(kept)
    assert (tmp_path / "recalled").exists()


def test_in_the_trainer_and_on_a_pool_no_task_waits_in_sight(tmp_path: Path) -> None:
    with WorkerPool(1) as pool, loader_of(tmp_path, rules={"pool": pool}) as loader:
        assert not any(check(list(loader)))
    with DataLoader(WorksAhead(tmp_path), batch_size=None) as loader:
        assert not any(check(list(loader)))
    assert lookahead.waiting(lambda: None) == []


def test_a_reserved_lease_goes_on_behind_what_was_reserved() -> None:
    arena = Arena()
    writer = SlotWriter(arena)
    writer.open(3)
    assert writer.write(b"open") == 0
    one, other = writer.reserve(5, [100, 1 << 27])  # larger than a first mapping
    assert writer.is_open
    assert writer.write(b"still open") == 64
    assert writer.offset_of(one.data_ptr(), 100) is None, "another lease"
    writer.close()
    writer.open(5)
    assert writer.offset_of(one.data_ptr(), 100) == 0
    assert writer.offset_of(other.data_ptr(), 1 << 27) == 128
    assert writer.allocate(8) >= 128 + (1 << 27)
    del one, other
    writer.close()
    assert writer.in_place
    writer.reserve(6, [10])
    writer.take_back(6)
    writer.open(6)
    assert writer.used == 0
    writer.close()
    arena.close()
