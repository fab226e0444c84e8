"""One rank of two that keep their loaders' states in a framework's own checkpoint, in mid-epoch.

    torchrun ... -m tests.distributed.framework_ranks FOLDER lightning|accelerate

Writes what it got in one run, and after going on from the checkpoint.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import safeloader

COUNT, STOP = 32, 3


class Draws(torch.utils.data.Dataset[Any]):
    """Samples that draw random numbers."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index), torch.rand(()).item()])


def lightning(folder: Path) -> list[Any]:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(2, 1), list[Any]()

        def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
            self.seen.append(batch.tolist())
            return self.layer(batch).square().mean() * 1e-3  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(stop: int, **more: Any) -> Any:
        torch.manual_seed(0)
        module = Module()
        saving = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=STOP, save_top_k=-1)
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False, max_epochs=2,
            enable_model_summary=False, default_root_dir=folder, max_steps=stop, callbacks=[saving],
        )  # fmt: skip
        with safeloader.DataLoader(Draws(), 2, shuffle=True, num_workers=1, name="train") as train:
            trainer.fit(module, train, **more)
        return module.seen

    straight = fit(-1)
    fit(STOP)
    return [straight, fit(-1, ckpt_path=folder / f"step={STOP}.ckpt")]


def accelerated(folder: Path) -> list[Any]:
    import accelerate
    from accelerate.utils import DataLoaderConfiguration

    safeloader.patch()

    def prepared() -> tuple[Any, Any]:
        torch.manual_seed(0)
        accelerate.state.AcceleratorState._reset_state()
        accelerate.state.GradientState._reset_state()
        wanted = DataLoaderConfiguration(use_stateful_dataloader=True)
        accelerator = accelerate.Accelerator(cpu=True, dataloader_config=wanted)
        loader = torch.utils.data.DataLoader(Draws(), 2, shuffle=True, num_workers=1)
        return accelerator, accelerator.prepare(loader)

    accelerator, loader = prepared()
    batches = iter(loader)
    straight = [next(batches).tolist() for _ in range(STOP)]
    accelerator.save_state(str(folder / "saved"))
    straight += [batch.tolist() for batch in batches]
    accelerator.wait_for_everyone()
    accelerator, again = prepared()
    accelerator.load_state(str(folder / "saved"))
    return [straight, [batch.tolist() for batch in again]]


def main() -> None:
    folder, framework = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = lightning(folder) if framework == "lightning" else accelerated(folder)
    (folder / f"{framework}-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
