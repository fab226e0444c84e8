"""``pin_in_place``: the slots themselves are pinned, and nothing that a device still reads is written to."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Literal

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy
from safeloader.runtime.memory import pinned
from tests.accelerator.test_cuda import Nested, _tensors
from tests.fixtures_data import Draws, Orders
from tests.runtime.harness import COUNT, kill_all, make, reference, run_epoch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(300),
]
IN_PLACE = Policy(pin_in_place=True)
SLOW = 200_000_000
"""Cycles that a device is kept busy, about 0.1 s."""


class Growing(Dataset[torch.Tensor]):
    """Samples of one number, which get longer from 4 KB to 32 MB."""

    def __len__(self) -> int:
        return 28

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1 << (10 + index // 2),), float(index))


class Large(Dataset[torch.Tensor]):
    """Samples of 1 MB."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1 << 18,), float(index))


@pytest.fixture(autouse=True)
def context() -> None:
    """The trainer holds a context, as it does once a model is on the device."""
    torch.ones(1, device="cuda").add_(1)


def _arena_addresses() -> list[tuple[int, int]]:
    with open("/proc/self/maps", encoding="ascii") as maps:
        lines = [line.split() for line in maps if "safeloader-arena" in line]
    return [(int(low, 16), int(high, 16)) for low, high in (line[0].split("-") for line in lines)]


def _in_arena(tensor: torch.Tensor) -> bool:
    return any(low <= tensor.data_ptr() < high for low, high in _arena_addresses())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_batches_are_pinned_where_they_lie_and_torchs_to_the_byte(method: Literal["spawn", "forkserver"]) -> None:
    options: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "pin_memory": True}
    expected = list(TorchLoader(Nested(), multiprocessing_context="spawn", **options))
    loader = DataLoader(Nested(), policy=Policy(start_method=method, pin_in_place=True), **options)
    for ours, theirs in zip(loader, expected, strict=True):
        assert ours["name"] == theirs["name"]
        pairs = list(zip(_tensors(ours), _tensors(theirs), strict=True))
        assert pairs and all(a.is_pinned() and torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
        assert _in_arena(ours["image"])
    loader.close()


def test_batches_are_torchs_when_workers_are_killed() -> None:
    loader = make(Draws(COUNT, Orders()), pin_memory=True, policy=IN_PLACE)

    def batches() -> Any:
        for number, batch in enumerate(loader):
            assert batch.is_pinned()
            yield batch
            if number == 3:
                kill_all(loader)

    assert run_epoch(batches()) == reference(pin_memory=True)[0]
    assert loader.report().restarts == 2
    loader.close()


def test_what_a_device_still_reads_is_not_written_to() -> None:
    """The program lets go of each batch at once, while its copy waits on a stream of its own."""
    loader = DataLoader(Large(), batch_size=1, num_workers=2, pin_memory=True, persistent_workers=True, policy=IN_PLACE)
    stream, sums = torch.cuda.Stream(), []
    for _ in range(3):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10 * SLOW)
            for batch in loader:
                sums.append(batch.to("cuda", non_blocking=True)[0, ::4096].mean())
                del batch
    torch.cuda.synchronize()
    assert [float(one) for one in sums] == [float(index) for _ in range(3) for index in range(64)]
    loader.close()


def test_batches_that_grow_and_slots_that_go_back_to_the_system_are_right_on_the_device() -> None:
    loader = DataLoader(
        Growing(), batch_size=None, num_workers=2, pin_memory=True, persistent_workers=True, policy=IN_PLACE
    )
    for _ in range(3):
        held = list(loader)  # more slots than are kept
        assert all(batch.is_pinned() for batch in held)
        copies = [batch.to("cuda", non_blocking=True) for batch in held]
        del held
        for index, copied in enumerate(copies):
            assert bool((copied == float(index)).all()), index
    loader.close()


def test_batches_outlive_the_loader_and_their_memory_goes_with_them() -> None:
    before = _arena_addresses()
    loader = DataLoader(Large(), batch_size=8, num_workers=2, pin_memory=True, policy=IN_PLACE)
    held = list(loader)[:2]
    loader.close()
    assert all(batch.is_pinned() for batch in held) and float(held[1][0, 0]) == 8.0
    copied = held[1].to("cuda", non_blocking=True)
    del held
    assert float(copied[0, 0]) == 8.0
    assert not pinned._left and _arena_addresses() == before


def test_a_fork_sees_its_batch_and_the_trainer_goes_on() -> None:
    loader = DataLoader(Large(), batch_size=8, num_workers=2, pin_memory=True, persistent_workers=True, policy=IN_PLACE)
    batches = iter(loader)
    first = next(batches)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os._exit(0 if float(first[0, 0]) == 0.0 and float(first[7, 1]) == 7.0 else 1)
        os._exit(2)
    sums = [float(batch.to("cuda", non_blocking=True)[0, 0]) for batch in batches]
    assert sums == [8.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    loader.close()


def test_batches_may_be_asked_for_while_a_graph_is_captured() -> None:
    loader = DataLoader(Large(), batch_size=8, num_workers=2, pin_memory=True, policy=IN_PLACE)
    batches = iter(loader)
    still = next(batches).cuda()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = still * 2
        firsts = [float(next(batches)[0, 0]) for _ in range(5)]
    assert firsts == [8.0, 16.0, 24.0, 32.0, 40.0]
    graph.replay()
    assert float(doubled[1, 0]) == 2.0 and len(list(batches)) == 2
    loader.close()
