"""Batches lie in leased memory: kept ones stay whole, dropped ones are used again, and nothing is opened for them."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest
import torch

from safeloader import Policy
from tests.fixtures_data import Draws, Orders, Pictures, keep_all
from tests.runtime.harness import COUNT, driver_of, kill_all, make, persistent_epochs, play, processes_of, seed

pytestmark = pytest.mark.usefixtures("forked")

BATCHES = 300


def _descriptors() -> int:
    """Without files of /proc, such as the one that the clock's thread opens for a moment each second."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            count += not os.readlink(f"/proc/self/fd/{number}").startswith("/proc/")
    return count


def _mappings() -> int:
    with open("/proc/self/maps") as file:
        return sum("memfd:safeloader" in line for line in file)


def _uses_shm(pid: int | str) -> list[str]:
    with open(f"/proc/{pid}/maps") as file:
        used = [line for line in file if "/dev/shm" in line]
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
        used += [target] if "/dev/shm" in target else []
    return used


def test_batches_that_are_kept_stay_whole_and_cost_no_descriptor() -> None:
    """300 of them: through the epoch, through the death of all processes, another epoch, and after close()."""
    kept: list[torch.Tensor] = []
    copies: list[torch.Tensor] = []
    counts: list[int] = []
    loader = make(Draws(4 * BATCHES), persistent_workers=True, policy=Policy(max_restarts=100))
    shm = _uses_shm("self")
    for number, batch in enumerate(loader):
        kept.append(batch)
        copies.append(batch.clone())
        if number in (50, BATCHES - 1):
            counts.append(_descriptors())
            assert [_uses_shm(process.pid) for process in processes_of(loader)] == [[], []]
        if number == 150:
            kill_all(loader)
    assert len(kept) == BATCHES
    assert counts[0] == counts[1]
    for _ in loader:
        pass
    assert all(map(torch.equal, kept, copies))
    loader.close()
    del loader
    assert all(map(torch.equal, kept, copies))
    assert _uses_shm("self") == shm
    kept[0].add_(1)  # they can be written to
    assert torch.equal(kept[1], copies[1])


def test_in_the_steady_state_nothing_is_mapped_or_opened() -> None:
    counts = []
    for number, _ in enumerate(make(Draws(4 * BATCHES))):
        if number in (40, BATCHES - 1):
            counts.append((_descriptors(), _mappings()))
    assert counts[0] == counts[1]


def test_memory_of_batches_that_were_kept_goes_back_to_the_system() -> None:
    megabyte = 1 << 20
    loader = make(Pictures(160, megabyte // 2), batch_size=2, shuffle=False, persistent_workers=True)
    kept: list[Any] = list(loader)
    arena = driver_of(loader._iterator).arena.descriptor
    assert os.fstat(arena).st_blocks * 512 >= 80 * megabyte
    assert [int(batch[1, -1]) for batch in kept] == [index % 251 for index in range(1, 160, 2)]
    kept.clear()
    del kept
    for batch in loader:
        del batch
    assert os.fstat(arena).st_blocks * 512 <= 24 * megabyte
    loader.close()


def test_a_batch_that_the_worker_keeps_is_never_overwritten() -> None:
    """Its collate function compares all that it ever made with copies."""
    seen = [int(row[0]) for batch in make(Draws(200), collate_fn=keep_all, shuffle=False) for row in batch]
    assert seen == list(range(200))


def test_what_the_consumer_writes_into_a_batch_reaches_no_other() -> None:
    def scribbled() -> Any:
        for batch in make(Draws(COUNT)):
            yield batch
            batch.fill_(-1)

    seed()
    assert play(scribbled()) == persistent_epochs()[0]


def test_batches_of_very_different_sizes_share_the_arena(orders: Orders) -> None:
    """Each batch is larger than any before; a lease grows under a process that dies while it writes."""
    sizes = [10, 100_000, 5, 70_000_000, 3]
    loader = make(Growing(sizes), batch_size=None, shuffle=False, num_workers=1)
    for index, sample in enumerate(loader):
        assert sample.numel() == sizes[index]
        assert int(sample[0]) == int(sample[-1]) == index


class Growing(torch.utils.data.Dataset[torch.Tensor]):
    """Samples of given sizes in bytes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((self.sizes[index],), index, dtype=torch.uint8)
