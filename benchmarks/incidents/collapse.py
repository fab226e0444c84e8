"""Incident 5: collapse and freeze: a NaN in one sample reaches loss, gradients, weights, and the only checkpoint.

Without help, training goes on with weights of NaN, and its checkpoints overwrite the good ones. With the finite guard,
the step with the bad sample is named and left out; when weights are hit all the same, training stops and resumes
from the newest good checkpoint, past one that the disk has damaged.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.incidents.digits import Digits, accuracy, network, seed_everything
from benchmarks.incidents.watching import Row, run, side_of, tell

TITLE = "5. collapse"
_BAD = 700
_EPOCHS = 5
_HIT = 4
"""In this epoch a fault hits the weights themselves, after the step."""


class WithNaN(Digits):
    """Digits of which one cannot be read rightly, from epoch 2 on."""

    epoch = 1

    def __getitem__(self, index: int) -> Any:
        picture, label = super().__getitem__(index)
        if index == _BAD and self.epoch >= 2:
            picture = picture.clone()
            picture[0, 3, 3] = math.nan
        return picture, label


def main() -> None:
    """The program."""
    side = side_of(__doc__)
    seed_everything()
    with tempfile.TemporaryDirectory() as folder:
        (_without if side == "without" else _with)(Path(folder))


def _step(model: nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = nn.functional.cross_entropy(model(pictures), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _without(folder: Path) -> None:
    model, dataset = network(), WithNaN("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    right = 0.0
    for dataset.epoch in range(1, _EPOCHS + 1):
        for pictures, labels in torch.utils.data.DataLoader(dataset, 50, shuffle=True):
            optimizer.zero_grad()
            _step(model, pictures, labels)
            optimizer.step()
        right = _evaluate(model, dataset.epoch)
        torch.save(model.state_dict(), folder / "checkpoint.pt")
    finite = all(bool(value.isfinite().all()) for value in torch.load(folder / "checkpoint.pt").values())
    tell(accuracy=right, good_checkpoint=finite)


def _with(folder: Path) -> None:
    from safeloader import DataLoader
    from safeloader.training import CheckpointStore, FiniteGuard, NonFiniteError, resume

    model, dataset = network(), WithNaN("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader: Any = DataLoader(dataset, 50, shuffle=True, name="train")
    store = CheckpointStore(folder, run="digits", keep_last=4)
    guard = FiniteGuard(model, action="skip_step")
    right, hit = 0.0, False
    while dataset.epoch <= _EPOCHS:
        try:
            for pictures, labels in guard.batches(loader):
                optimizer.zero_grad()
                loss = _step(model, pictures, labels)
                if guard.allows_step(loss):
                    optimizer.step()
                if dataset.epoch == _HIT and not hit:
                    hit = True
                    _hit(model)
            right = _evaluate(model, dataset.epoch)
            store.save(dataset.epoch, metric=right, model=model, optimizer=optimizer, extra={"epoch": dataset.epoch})
            dataset.epoch += 1
        except NonFiniteError as error:
            print(f"stopped: {error}")
            _damage(max(folder.glob("*.ckpt")))
            resumed = resume(store, model=model, optimizer=optimizer)
            print(f"resumed: {resumed}; passed over: {[str(passed) for passed in store.passed_over]}")
            dataset.epoch = resumed.extra["epoch"] + 1
    for trouble in guard.troubles:
        print(f"guard: step {trouble.step}: {trouble.text}")
    tell(accuracy=right, good_checkpoint=store.latest_good() is not None, skipped=guard.skipped)


def _evaluate(model: nn.Module, epoch: int) -> float:
    right = accuracy(model, torch.utils.data.DataLoader(Digits("val"), 100))
    print(f"epoch {epoch}: validation accuracy {right:.3f}")
    return right


@torch.no_grad()
def _hit(model: nn.Module) -> None:
    next(model.parameters())[0, 0, 0, 0] = math.nan


def _damage(newest: Path) -> None:
    """One flipped bit in the middle."""
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)


def measure() -> list[Row]:
    """Both runs, judged."""
    blind, guarded = run("collapse", "without"), run("collapse", "with")
    named = guarded.first(f"of samples {_BAD}") or guarded.first(str(_BAD))
    stopped, resumed = guarded.first("stopped: "), guarded.first("resumed: ")
    return [
        Row(TITLE, "without", "weights of NaN from epoch 2 on, and a checkpoint of NaN", "never",
            "the run and its checkpoint", blind.ended, f"accuracy {blind.result['accuracy']:.3f}",
            blind.result["accuracy"] < 0.2 and not blind.result["good_checkpoint"]),
        Row(TITLE, "with", "the step of the bad sample is named and left out; hit weights stop the run, which goes on "
            "from the newest good checkpoint, past a damaged one", "the same step",
            f"{guarded.result['skipped']} steps, {_HIT - 2} epochs", guarded.ended,
            f"accuracy {guarded.result['accuracy']:.3f}",
            None not in (named, stopped, resumed) and guarded.result["accuracy"] > 0.8
            and guarded.result["good_checkpoint"]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
