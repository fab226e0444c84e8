"""What only a real CUDA device can show; skipped where there is none."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset, get_worker_info

from safeloader import DataLoader, Policy
from tests.fixtures_data import Draws, Orders
from tests.runtime.harness import COUNT, kill_all, make, reference, run_epoch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(300),
]
METHODS: list[Literal["spawn", "forkserver"]] = ["spawn", "forkserver"]


class Nested(Dataset[Any]):
    """Batches of every shape that pinning goes into."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        image = torch.full((3, 16, 16), float(index))
        return {"image": image, "pair": (torch.tensor(index), [image[0], index]), "name": str(index)}


class Devices(Dataset[Any]):
    """What a worker sees of devices."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        assert get_worker_info() is not None
        opened = [
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{n}")
        ]
        return {
            "available": torch.cuda.is_available(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "files": [name for name in opened if name.startswith("/dev/nvidia")],
            "initialized": torch.cuda.is_initialized(),
        }


class OnDevice(Dataset[torch.Tensor]):
    """A sample that is computed on the device."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return (torch.arange(4.0, device="cuda") * index).cpu()


def _tensors(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def _unbatched(samples: list[Any]) -> Any:
    return samples[0]


@pytest.fixture(autouse=True)
def context() -> None:
    """The trainer holds a context, as it does once a model is on the device."""
    torch.ones(1, device="cuda").add_(1)


@pytest.mark.parametrize("method", METHODS)
def test_pinned_batches_are_pinned_and_torchs_to_the_byte(method: Any) -> None:
    options: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "pin_memory": True}
    expected = list(TorchLoader(Nested(), multiprocessing_context="spawn", **options))
    loader = DataLoader(Nested(), policy=Policy(start_method=method), **options)
    given = list(loader)
    assert len(given) == len(expected) == 6
    for ours, theirs in zip(given, expected, strict=True):
        assert ours["name"] == theirs["name"]
        pairs = list(zip(_tensors(ours), _tensors(theirs), strict=True))
        assert pairs and all(a.is_pinned() and torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    loader.close()


def test_pinned_batches_are_torchs_when_workers_are_killed() -> None:
    loader = make(Draws(COUNT, Orders()), pin_memory=True)
    taken: list[Any] = []

    def batches() -> Any:
        for number, batch in enumerate(loader):
            taken.append(batch.is_pinned())
            yield batch
            if number == 3:
                kill_all(loader)

    assert run_epoch(batches()) == reference(pin_memory=True)[0]
    assert all(taken) and loader.report().restarts == 2
    loader.close()


def test_a_batch_on_its_way_to_the_device_is_not_overwritten() -> None:
    """The copy is asynchronous, and the pinned memory is the batch's own until it is done."""
    loader = DataLoader(Nested(), batch_size=4, num_workers=2, pin_memory=True, persistent_workers=True)
    for _ in range(20):
        sums = [batch["image"].to("cuda", non_blocking=True).sum() for batch in loader]
        assert [int(s) // (3 * 16 * 16) for s in sums] == [6, 22, 38, 54, 70, 86]
    loader.close()


@pytest.mark.parametrize("method", METHODS)
def test_workers_see_no_device_and_the_trainer_keeps_its_own(method: Any) -> None:
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    loader = DataLoader(
        Devices(), batch_size=1, num_workers=2, collate_fn=_unbatched, policy=Policy(start_method=method)
    )
    for seen in loader:
        assert seen == {"available": False, "visible": "", "files": [], "initialized": False}
    loader.close()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    assert torch.cuda.is_available() and float(torch.ones(2, device="cuda").sum()) == 2.0


@pytest.mark.parametrize("method", METHODS)
def test_workers_use_the_device_where_policy_says_so(method: Any) -> None:
    options: dict[str, Any] = {"batch_size": 2, "num_workers": 1}
    expected = [(torch.arange(4.0) * torch.arange(i, i + 2.0)[:, None]) for i in range(0, 8, 2)]
    loader = DataLoader(OnDevice(), policy=Policy(start_method=method, accelerators=True), **options)
    for epoch in range(2):
        given = list(loader)
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True)), f"epoch {epoch}"
    loader.close()


def test_a_killed_worker_that_used_the_device_is_replaced() -> None:
    loader = DataLoader(
        OnDevice(), batch_size=1, num_workers=2, persistent_workers=True, policy=Policy(accelerators=True)
    )
    given = []
    for number, batch in enumerate(loader):
        given.append(batch)
        if number == 1:
            kill_all(loader)
    assert torch.equal(torch.cat(given), torch.arange(4.0) * torch.arange(8.0)[:, None])
    loader.close()


def test_the_trainers_default_device_does_not_reach_samples_at_rung_0() -> None:
    torch.set_default_device("cuda")
    try:
        loader = DataLoader(Nested(), batch_size=4, num_workers=2, policy=Policy(max_processes=0))
        assert all(not tensor.is_cuda for batch in loader for tensor in _tensors(batch))
        loader.close()
        assert torch.ones(1).is_cuda
    finally:
        torch.set_default_device(None)


def test_a_fork_server_is_clean_of_the_trainers_context(tmp_path: Path) -> None:
    """It starts after the trainer has a context, and its processes start no context of their own."""
    loader = DataLoader(
        Devices(), batch_size=1, num_workers=2, collate_fn=_unbatched, persistent_workers=True,
        policy=Policy(start_method="forkserver"),
    )  # fmt: skip
    for _ in range(2):
        assert not any(seen["files"] for seen in loader)
        kill_all(loader)
    loader.close()


def test_a_finite_guard_waits_for_nothing_and_tells_one_step_later() -> None:
    from safeloader.training import FiniteGuard, NonFiniteError

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 1)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, foreach=True)
    guard = FiniteGuard(model, denormals_every=0)
    batch = torch.randn(8, 64, device="cuda")
    scale = torch.ones((), device="cuda")
    with warnings.catch_warnings():  # that it is a prototype
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode("error")  # what waits for the device raises
    try:
        for number in range(5):
            optimizer.zero_grad()
            loss = model(guard.batch(batch, number=number)).square().mean() * scale
            loss.backward()
            assert guard.allows_step(loss)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    scale.fill_(float("nan"))
    (model(guard.batch(batch, number=5)).square().mean() * scale).backward()
    assert guard.allows_step()
    optimizer.step()
    with pytest.raises(NonFiniteError) as caught:
        guard.finish()
    assert (caught.value.batch, caught.value.where) == (5, "step 5")
