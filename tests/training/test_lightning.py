"""The helpers in a real Lightning trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset

from safeloader import DataLoader
from safeloader.training import CheckpointError, MetricWatch, NonFiniteError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pl = pytest.importorskip("lightning.pytorch")

from safeloader.training.lightning import GuardCallback, MetricCallback, SafeCheckpointIO

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of much


class Model(pl.LightningModule):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(batch[0]).square().mean()
        self.seen.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def _data(bad: tuple[int, ...] = ()) -> TensorDataset:
    numbers = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    for index in bad:
        numbers[index, 0] = float("nan")
    return TensorDataset(numbers)


def _trainer(folder: Path, epochs: int, *callbacks: Any, plugins: Any = None) -> Any:
    return pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), plugins=plugins, default_root_dir=folder,
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
    )  # fmt: skip


def test_a_bad_batch_is_named_with_its_samples_and_skipped(tmp_path: Path) -> None:
    callback, model = GuardCallback(action="skip_step"), Model()
    _trainer(tmp_path, 1, callback).fit(model, DataLoader(_data((9,)), batch_size=4))
    guard = callback.guard
    assert guard is not None and (guard.steps, guard.skipped) == (8, 1)
    (trouble,) = guard.troubles
    assert (trouble.kind, trouble.batch, trouble.indices) == ("batch", 2, [9])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_bad_batch_ends_the_fit_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="batch 2 is not finite"):
        _trainer(tmp_path, 1, GuardCallback()).fit(Model(), TorchLoader(_data((9,)), batch_size=4))


def test_the_last_step_of_a_fit_that_waits_for_no_device_is_told_at_its_end(tmp_path: Path) -> None:
    class Spoilt(Model):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * (float("nan") if batch_idx == 7 else 1.0)

    with pytest.raises(NonFiniteError, match="the loss is not finite at batch 7"):
        _trainer(tmp_path, 1, GuardCallback(wait_for_device=False)).fit(Spoilt(), TorchLoader(_data(), batch_size=4))


def test_the_metric_and_the_gradient_norm_are_watched_and_end_the_fit(tmp_path: Path) -> None:
    guard = GuardCallback()
    watch = MetricWatch("error", mode="max", decline=2, collapse=1.0)  # it will fall: that is a decline
    callback = MetricCallback(watch, "error", guard=guard, stop=True)
    trainer = _trainer(tmp_path, 20, guard, callback)
    trainer.fit(Model(), DataLoader(_data(), batch_size=4), TorchLoader(_data(), batch_size=8))
    assert watch.findings[0].kind == "decline" and trainer.current_epoch == watch.findings[0].step + 1 < 20
    assert len(watch.state_dict()["gradients"]["norms"]) >= 16


def test_a_metric_that_nobody_logs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no metric is logged as 'eror'; logged: error"):
        _trainer(tmp_path, 1, MetricCallback(MetricWatch(), "eror")).fit(
            Model(), DataLoader(_data(), batch_size=4), TorchLoader(_data(), batch_size=8)
        )


def test_lightnings_own_checkpoints_are_sealed_and_resumed_from_the_newest_good_one(tmp_path: Path) -> None:
    def fit(folder: Path, epochs: int, **more: Any) -> Model:
        model, watch = Model(), MetricWatch("error", mode="min")
        saving = pl.callbacks.ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{epoch}")
        trainer = _trainer(folder, epochs, saving, MetricCallback(watch, "error"), plugins=[SafeCheckpointIO(run="a")])
        torch.manual_seed(5)
        trainer.fit(model, DataLoader(_data(), batch_size=4), TorchLoader(_data(), batch_size=8), **more)
        assert watch.best is not None
        return model

    straight = fit(tmp_path / "straight", 3)
    fit(tmp_path / "broken", 3)
    io = SafeCheckpointIO(run="a")
    newest = io.latest_good(tmp_path / "broken")
    assert newest is not None and newest.name == "epoch=2.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    good = io.latest_good(tmp_path / "broken")
    assert good is not None and good.name == "epoch=1.ckpt"
    resumed = fit(tmp_path / "broken", 3, ckpt_path=good)
    assert len(resumed.seen) == 8, "one epoch was left"
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="belongs to run 'a'"):
        SafeCheckpointIO(run="b").load_checkpoint(good)
    assert SafeCheckpointIO(run="b").latest_good(tmp_path / "broken") is None
    io.remove_checkpoint(good)
    assert not good.exists()


def test_a_checkpoint_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"state_dict.w \(1 NaN of 2\)"):
        SafeCheckpointIO(run="a").save_checkpoint(
            {"state_dict": {"w": torch.tensor([0.0, float("nan")])}}, tmp_path / "x.ckpt"
        )
    assert not list(tmp_path.iterdir())
