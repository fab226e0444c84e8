"""The further ways in which Lightning and Accelerate combine, cut and dispatch loaders; under each a worker is killed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader import DataLoader
from tests.integration.killing import Killing

pytestmark = [
    pytest.mark.filterwarnings("default"),  # of the packages' own making
    pytest.mark.usefixtures("forked"),
]


def _flat(batch: Any) -> list[float]:
    """What a batch of one or of several loaders holds."""
    if isinstance(batch, dict):
        return [value for name in sorted(batch) for value in _flat(batch[name])]
    if isinstance(batch, (list, tuple)):
        return [value for item in batch for value in _flat(item)]
    return [] if batch is None else batch.flatten().tolist()


def _compare(use: Callable[[Any], list[Any]], folder: Path, bad: int = 13) -> DataLoader[Any]:
    """Use a loader of torch's, and one of ours whose worker is killed: the same comes out."""
    made = []
    given = []
    for kind, sample in ((torch.utils.data.DataLoader, None), (DataLoader, bad)):
        torch.manual_seed(0)
        made.append(kind(Killing(folder, sample), 4, shuffle=True, num_workers=2, multiprocessing_context="forkserver"))
        given.append([_flat(batch) for batch in use(made[-1])])
    assert given[0] == given[1]
    assert given[0]
    assert Killing(folder, bad).killed
    return made[1]


# ---------------------------------------------------------------- Lightning


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
def test_lightnings_combined_loader(mode: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    def use(loader: Any) -> list[Any]:
        other = type(loader)(Killing(tmp_path, None, length=36), 4, num_workers=1, multiprocessing_context="forkserver")
        combined = lightning.pytorch.utilities.CombinedLoader({"a": loader, "b": other}, mode)
        return [batch for batch, _, _ in combined]

    loader = _compare(use, tmp_path)
    assert loader.report().causes == {"died": 1}
    loader.close()


def test_lightnings_fabric(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    loader = _compare(lambda loader: list(fabric.setup_dataloaders(loader)), tmp_path)
    assert loader.report().causes == {"died": 1}


def test_lightning_overfits_the_same_batches(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    def use(loader: Any) -> list[Any]:
        seen = []

        class Line(lightning.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(3, 1)

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append(batch[1])
                return (self.layer(batch[0]).squeeze(1) - batch[1]).pow(2).mean()

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=1e-6)

        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, max_epochs=2, overfit_batches=5,
        )  # fmt: skip
        trainer.fit(Line(), loader)
        return seen

    _compare(use, tmp_path)


# ---------------------------------------------------------------- Accelerate


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("options", [{"dispatch_batches": True}, {"split_batches": True}, {"even_batches": False}])
def test_accelerates_ways_to_share_batches(options: dict[str, bool], tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    configuration = accelerate.utils.DataLoaderConfiguration(**options)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=configuration)
    prepared = []

    def use(loader: Any) -> list[Any]:
        prepared.append(accelerator.prepare(loader))
        return list(prepared[-1])

    _compare(use, tmp_path)
    assert all(isinstance(loader, DataLoader) for loader in prepared)
    assert prepared[-1].report().causes == {"died": 1}


@pytest.mark.usefixtures("patched")
def test_accelerate_skips_the_first_batches(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)

    def use(loader: Any) -> list[Any]:
        prepared = accelerator.prepare(loader)
        skipped = list(accelerator.skip_first_batches(prepared, 3))
        assert len(skipped) == 5
        return [*skipped, *prepared]

    _compare(use, tmp_path)
