"""A program: train, with chance in the workers and in the model; saved every third batch.

``python -m tests.training.mid_epoch HOW FOLDER [BATCH]``: HOW is plain, lightning or accelerate. It is killed right after
batch BATCH, which is not saved. Started again, it goes on. At its end it prints where it began and a print of its weights.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import safeloader
from safeloader.training import CheckpointStore, resume

EPOCHS, BATCHES, EVERY = 3, 8, 3


class Noisy(Dataset[Any]):
    """Numbers that are never the same twice: from all three generators of whoever loads them."""

    def __len__(self) -> int:
        return 4 * BATCHES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(6) + random.random() + float(np.random.rand()) + index / 10


class Counted:
    """Says how many batches this process has trained on, and dies after the one that it is told."""

    def __init__(self, last: int | None) -> None:
        self.last, self.trained = last, 0

    def one_more(self) -> None:
        self.trained += 1
        if self.trained == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def network() -> nn.Sequential:
    """Draws from the trainer's generator at each step, and has running statistics."""
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 1))


def loader() -> Any:
    policy = safeloader.Policy(max_processes=1)
    return safeloader.DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2, policy=policy, name="train")


def plain(folder: Path, counted: Counted) -> nn.Module:
    """The loop of docs/training.md."""
    model, batches = network(), loader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * BATCHES)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": batches}
    store = CheckpointStore(folder, run="mid-epoch")
    step = resume(store, **parts).step
    print("began at", step)
    while step < EPOCHS * BATCHES:
        for batch in batches:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            scheduler.step()
            step += 1
            if step % EVERY == 0:
                store.save(step, **parts)
            counted.one_more()
    batches.close()
    return model


def accelerated(folder: Path, counted: Counted) -> nn.Module:
    """With everything prepared by Accelerate, which fetches a batch ahead."""
    import accelerate

    from safeloader.training.accelerate import parts

    safeloader.patch()
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    store = CheckpointStore(folder, run="mid-epoch")
    saved = parts(accelerator, model=model, optimizer=optimizer, loader=batches)
    step = resume(store, **saved).step
    print("began at", step)
    while step < EPOCHS * BATCHES:
        for batch in batches:
            optimizer.zero_grad()
            accelerator.backward(model(batch).square().mean())
            optimizer.step()
            step += 1
            if step % EVERY == 0:
                store.save(step, **saved)
            counted.one_more()
    batches.base_dataloader.close()
    return accelerator.unwrap_model(model)  # type: ignore[no-any-return]


def lightning(folder: Path, counted: Counted) -> nn.Module:
    """With Lightning's own checkpoints, sealed."""
    import lightning.pytorch as pl

    from safeloader.training.lightning import SafeCheckpointIO

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return self.net(batch).square().mean()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    class Dying(pl.Callback):  # type: ignore[misc, name-defined, unused-ignore]
        def on_train_batch_end(self, *_: Any) -> None:
            counted.one_more()

    io = SafeCheckpointIO(run="mid-epoch")
    saving = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=EVERY, save_top_k=-1, filename="{step}")
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, callbacks=[saving, Dying()], plugins=[io], default_root_dir=folder,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module, batches, good = Module(), loader(), io.latest_good(folder)
    print("began at", 0 if good is None else int(good.stem.partition("=")[2]))
    trainer.fit(module, batches, ckpt_path=good)
    batches.close()
    return module.net


def main(how: str, folder: Path, last: int | None) -> None:
    """Train, from wherever it stands."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    torch.set_num_threads(1)
    model = {"plain": plain, "lightning": lightning, "accelerate": accelerated}[how](folder, Counted(last))
    weights = hashlib.sha256()
    for value in model.state_dict().values():
        weights.update(value.numpy().tobytes())
    print("ended with", weights.hexdigest())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
