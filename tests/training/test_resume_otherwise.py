"""Going back with a lower rate, or with a model that has grown: done, and said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from safeloader.training import CheckpointError, CheckpointStore, resume
from tests.training.conftest import Run

lr = torch.optim.lr_scheduler


def _rates(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step(*([0.5] if isinstance(scheduler, lr.ReduceLROnPlateau) else []))
        found.append(optimizer.param_groups[0]["lr"])
    return found


SCHEDULERS = {
    "StepLR": lambda o: lr.StepLR(o, 2),
    "Cosine": lambda o: lr.CosineAnnealingLR(o, 10),
    "Lambda": lambda o: lr.LambdaLR(o, lambda epoch: 0.9**epoch),
    "OneCycle": lambda o: lr.OneCycleLR(o, 0.05, total_steps=40),
    "Cyclic": lambda o: lr.CyclicLR(o, 0.001, 0.1),
    "Plateau": lambda o: lr.ReduceLROnPlateau(o, patience=1),
    "Sequential": lambda o: lr.SequentialLR(o, [lr.ConstantLR(o), lr.ExponentialLR(o, 0.9)], [2]),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_lower_rate_holds_with_each_scheduler(store: CheckpointStore, kind: str) -> None:
    """Three quarters of the rate of the checkpoint, and of all that the schedule would have made of it."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = SCHEDULERS[kind](optimizer)
    _rates(scheduler, optimizer, 3)
    store.save(3, model=model, optimizer=optimizer, scheduler=scheduler)
    straight = [optimizer.param_groups[0]["lr"], *_rates(scheduler, optimizer, 8)]
    again = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    fresh = SCHEDULERS[kind](again)
    resumed = resume(store, model=model, optimizer=again, scheduler=fresh, learning_rate=lambda rate: 0.75 * rate)
    lowered = [again.param_groups[0]["lr"], *_rates(fresh, again, 8)]
    assert lowered == pytest.approx([0.75 * rate for rate in straight])
    assert any("learning rate" in note and "in place of" in note for note in resumed.notes)


def test_the_rate_asked_for_is_the_rate_used(store: CheckpointStore, run: Run) -> None:
    store.save(1, **run.parts)
    fresh = Run()
    resume(store, learning_rate=0.0075, **fresh.parts)
    assert fresh.optimizer.param_groups[0]["lr"] == pytest.approx(0.0075)


def test_rates_by_group_and_by_optimizer(store: CheckpointStore) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))

    def optimizers() -> dict[str, Any]:
        first = torch.optim.AdamW(
            [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters()}], lr=1.0
        )
        return {"first": first, "second": torch.optim.SGD(model.parameters(), lr=0.5)}

    store.save(1, **optimizers())
    again = optimizers()
    resume(store, learning_rate={"first": [0.05, 0.5]}, **again)
    assert [[g["lr"] for g in o.param_groups] for o in again.values()] == [[0.05, 0.5], [0.5]]
    for wrong in ({"third": 0.1}, {"first": [0.1]}, float("nan"), -1.0):
        with pytest.raises(CheckpointError, match="learning"):
            resume(store, learning_rate=wrong, **optimizers())


def test_values_that_the_checkpoint_overrules_are_said(store: CheckpointStore, run: Run) -> None:
    store.save(1, model=run.model, optimizer=torch.optim.AdamW(run.model.parameters(), lr=0.01, weight_decay=0.1))
    lower = torch.optim.AdamW(run.model.parameters(), lr=0.0075)
    notes = resume(store, model=run.model, optimizer=lower).notes
    assert lower.param_groups[0]["lr"] == 0.01
    assert any("learning rate 0.01 of the checkpoint is used, not 0.0075" in note for note in notes)
    assert any("weight_decay 0.1 of the checkpoint is used, not 0.01" in note for note in notes)


class Grown(nn.Module):
    """With heads, added where a real model adds them: in the middle."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(heads))
        self.last = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        deep: torch.Tensor = sum(head(x) for head in self.heads)  # type: ignore[assignment]
        return self.last(x) + deep


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_resuming_after_heads_were_added_or_removed(store: CheckpointStore, before: int, after: int) -> None:
    torch.manual_seed(0)
    old, new = Grown(before), Grown(after)
    optimizer = torch.optim.AdamW(old.parameters(), lr=0.01)
    _trained(old, optimizer)
    store.save(1, model=old, optimizer=optimizer, scheduler=lr.StepLR(optimizer, 2))
    other = torch.optim.AdamW(new.parameters(), lr=0.01)
    parts = {"model": new, "optimizer": other, "scheduler": lr.StepLR(other, 2)}
    with pytest.raises(CheckpointError, match="strict=False"):
        resume(store, **parts)
    resumed = resume(store, strict=False, **parts)
    for name in ("body.weight", "last.1.weight", "last.0.running_mean", "heads.0.bias"):
        assert torch.equal(new.state_dict()[name], old.state_dict()[name]), name
    for mine, theirs in ((new.last[1].weight, old.last[1].weight), (new.body.bias, old.body.bias)):
        assert torch.equal(other.state[mine]["exp_avg"], optimizer.state[theirs]["exp_avg"])
    assert any(("new, as it was built: heads.1.weight" if after > before else "the model has none: heads.1") in n
               for n in resumed.notes)  # fmt: skip
    _trained(new, other)


def test_optimizers_with_another_number_of_groups(store: CheckpointStore) -> None:
    model = Grown(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    _trained(model, optimizer)
    store.save(1, optimizer=optimizer, scheduler=lr.StepLR(optimizer, 2))
    extra = nn.Linear(2, 1)
    other = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    other.add_param_group({"params": list(extra.parameters()), "lr": 0.5})
    scheduler = lr.StepLR(other, 2)
    notes = resume(store, strict=False, optimizer=other, scheduler=scheduler).notes
    assert any("cannot be told apart" in note for note in notes), "without a model nobody says which is which"
    other.step()
    scheduler.step()
    assert [round(g["lr"], 6) for g in other.param_groups] == [0.01, 0.5]
