"""The helpers in a real Accelerate loop."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from safeloader import DataLoader
from safeloader.training import CheckpointStore, FiniteGuard, NonFiniteError, resume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    accelerate = pytest.importorskip("accelerate")

from safeloader.training.accelerate import guarded, parts

pytestmark = pytest.mark.filterwarnings("ignore")


def _prepared(accumulate: int = 1) -> tuple[Any, Any, Any, Any, Any]:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    numbers = torch.randn(32, 4)
    numbers[9, 0] = float("nan")
    loader = DataLoader(TensorDataset(numbers), batch_size=4)
    return accelerator, *accelerator.prepare(model, optimizer, loader, scheduler)


def _epoch(prepared: tuple[Any, Any, Any, Any, Any], guard: FiniteGuard) -> None:
    accelerator, model, optimizer, loader, scheduler = prepared
    for batch in guard.batches(loader):
        with accelerator.accumulate(model):
            accelerator.backward(model(batch[0]).square().mean())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def test_a_bad_batch_is_skipped_and_all_stays_finite() -> None:
    prepared = _prepared()
    guard = guarded(prepared[0], prepared[1], prepared[2], action="skip_step")
    _epoch(prepared, guard)
    assert (guard.steps, guard.skipped, guard.troubles[0].batch) == (8, 1, 2)
    assert all(torch.isfinite(value).all() for value in prepared[1].state_dict().values())


def test_only_real_steps_are_looked_at_while_gradients_accumulate() -> None:
    prepared = _prepared(accumulate=4)
    guard = guarded(prepared[0], prepared[1], prepared[2], action="skip_step")
    _epoch(prepared, guard)
    assert (guard.steps, guard.skipped) == (2, 1)


def test_a_bad_batch_raises_where_that_is_asked_for() -> None:
    prepared = _prepared()
    with pytest.raises(NonFiniteError, match="batch 2 is not finite"):
        _epoch(prepared, guarded(prepared[0], prepared[1], prepared[2]))


def test_prepared_parts_are_saved_and_resumed(tmp_path: Path) -> None:
    prepared = _prepared()
    accelerator, model, optimizer, _, scheduler = prepared
    _epoch(prepared, guarded(accelerator, model, optimizer, action="skip_step"))
    store = CheckpointStore(tmp_path, run="a")
    saved = store.save(1, **parts(accelerator, model=model, optimizer=optimizer, scheduler=scheduler))
    assert saved.kinds == {"model": "Sequential", "optimizer": "AdamW", "scheduler": "StepLR"}
    again = _prepared()
    assert resume(store, **parts(again[0], model=again[1], optimizer=again[2], scheduler=again[4]))
    for a, b in zip(model.state_dict().values(), again[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert again[4].state_dict() == scheduler.state_dict()
