"""Incident 5: collapse and freeze: a NaN in one sample reaches loss, gradients, weights, and the only checkpoint.

Without help, training goes on with weights of NaN, and its checkpoints overwrite the good ones. With the finite guard,
the step with a bad sample, loss or gradient is named and left out; when weights are hit all the same, training stops,
and goes on in the middle of the epoch from the newest good checkpoint, past a damaged one and one that holds a NaN.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.incidents.digits import Digits, accuracy, network, seed_everything
from benchmarks.incidents.watching import Row, Run, judged, run, side_of, tell

if TYPE_CHECKING:
    from safeloader.training import CheckpointStore

TITLE = "5. collapse"
_BAD = 700
_EPOCHS = 5
_BATCHES = 28  # an epoch's, of 50
_EVERY = 5  # steps from one checkpoint to the next
_LOSS, _GRADIENT, _WEIGHT = 60, 70, 101
"""After so many steps the next loss, the next gradient, and in epoch 4 a weight is spoilt, once."""


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


def _step(model: nn.Module, pictures: torch.Tensor, labels: torch.Tensor, step: int | None = None) -> torch.Tensor:
    loss = nn.functional.cross_entropy(model(pictures), labels)
    if step == _LOSS:
        loss = loss - loss * torch.zeros(()).log()
    if step == _GRADIENT:
        loss = loss + (0 * loss).sqrt()  # 0, with a derivative of 0 / 0
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
    parts = {"model": model, "optimizer": optimizer, "loader": loader}
    store = CheckpointStore(folder, run="digits", keep_last=4)
    guard = FiniteGuard(model, action="skip_step")
    faults, right, step, lost = {_LOSS, _GRADIENT, _WEIGHT}, 0.0, 0, 0

    def learn(pictures: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss = _step(model, pictures, labels, step if step in faults else None)
        if guard.allows_step(loss):
            optimizer.step()
        if step == _WEIGHT and step in faults:
            _hit(model)
        faults.discard(step)

    while step < _EPOCHS * _BATCHES:
        dataset.epoch = step // _BATCHES + 1
        try:
            for pictures, labels in guard.batches(loader):
                learn(pictures, labels)
                step += 1
                if step % _EVERY == 0:
                    store.save(step, **parts)
            right = _evaluate(model, dataset.epoch)
        except NonFiniteError as error:
            print(f"stopped: {error}")
            _spoil(store)
            resumed = resume(store, **parts)
            print(f"resumed: {resumed}")
            lost, step = step - resumed.step, resumed.step
    for trouble in guard.troubles:
        print(f"guard: step {trouble.step}: {trouble.text}")
    tell(
        accuracy=right, good_checkpoint=store.latest_good() is not None, skipped=guard.skipped, lost=lost,
        resumed=resumed.step, passed_over=[passed.why for passed in resumed.passed_over],
    )  # fmt: skip


def _evaluate(model: nn.Module, epoch: int) -> float:
    right = accuracy(model, torch.utils.data.DataLoader(Digits("val"), 100))
    print(f"epoch {epoch}: validation accuracy {right:.3f}")
    return right


@torch.no_grad()
def _hit(model: nn.Module) -> None:
    next(model.parameters())[0, 0, 0, 0] = math.nan


def _spoil(store: CheckpointStore) -> None:
    """One bit of the newest checkpoint is flipped; the one before holds a NaN, as an older tool would have saved it."""
    from safeloader.training import atomic_file

    newest, second = (found.path for found in store.checkpoints()[:2])
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    manifest, payload = atomic_file.read(second)
    payload["parts"]["model"]["0.weight"][0] = math.nan
    atomic_file.write(second, payload, manifest)


def measure() -> list[Row]:
    """Both runs, judged."""
    blind, guarded = run("collapse", "without"), run("collapse", "with")

    def without() -> Row:
        return Row(
            TITLE, "without", "weights of NaN from epoch 2 on, and a checkpoint of NaN", "never",
            "the run and its checkpoint", blind.ended, f"accuracy {blind.fact('accuracy'):.3f}",
            blind.fact("accuracy") < 0.2 and not blind.fact("good_checkpoint"),
        )  # fmt: skip

    return judged(TITLE, ("without", without), ("with", lambda: _guarded(guarded)))


def _guarded(guarded: Run) -> Row:
    told, resumed = guarded.result, guarded.fact("resumed")
    named = guarded.first(f"of samples {_BAD}")
    passed, stopped = told["passed_over"], guarded.first("stopped: the weights are not finite")
    same_step = (
        guarded.first(f"guard: step {_LOSS}: the loss is not finite"),
        guarded.first(f"guard: step {_GRADIENT}: the gradients are not finite"),
        guarded.first(f"guard: step {_WEIGHT + 1}: the weights are not finite"),
    )
    fine = (
        None not in (named, stopped, *same_step) and resumed % _BATCHES != 0
        and "damaged" in passed[0] and "model.0.weight (9 NaN of 144)" in passed[1]
    )  # fmt: skip
    return Row(
        TITLE, "with", "named: batch and sample, loss, gradients, weights; bad steps are left out; hit weights "
        f"stop the run, which goes on at step {resumed}, in the middle of epoch {resumed // _BATCHES + 1}, past a "
        "damaged checkpoint and one with a NaN", "the same step",
        f"{told['skipped']} steps left out, {told['lost']} done again", guarded.ended,
        f"accuracy {guarded.fact('accuracy'):.3f}", fine and told["accuracy"] > 0.8 and told["good_checkpoint"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
