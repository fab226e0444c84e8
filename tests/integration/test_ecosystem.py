"""Real packages that take, rebuild or make loaders; under each a worker is killed once."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader import DataLoader, Policy, WorkerPool
from safeloader.distributed import ElasticDistributedSampler
from tests.integration.killing import Killing
from tests.runtime.harness import gone, processes_of

POLICY = Policy(max_restarts=7)

pytestmark = [
    pytest.mark.filterwarnings("default"),  # of the packages' own making
    pytest.mark.usefixtures("forked"),
]


def _sums(loader: Any) -> list[float]:
    return [float(batch[1].sum()) for batch in loader]


def _undisturbed(folder: Path) -> list[float]:
    torch.manual_seed(0)
    options: Any = {"num_workers": 2, "multiprocessing_context": "forkserver"}  # whose server has imported torch
    return _sums(torch.utils.data.DataLoader(Killing(folder, None), 4, shuffle=True, **options))


# ---------------------------------------------------------------- Accelerate


def _accelerator() -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True)


def test_accelerate_without_a_patch_is_warned_of(tmp_path: Path) -> None:
    loader = DataLoader(Killing(tmp_path), 4, num_workers=2)
    with pytest.warns(UserWarning, match="Accelerate rebuilds this loader"):
        prepared = _accelerator().prepare(loader)
    assert not isinstance(prepared, DataLoader)


@pytest.mark.usefixtures("patched")
def test_accelerate_with_a_patch_prepares_safeloaders_with_the_same_policy_and_name(tmp_path: Path) -> None:
    expected = _undisturbed(tmp_path)
    dataset = Killing(tmp_path)
    loader = DataLoader(dataset, 4, shuffle=True, num_workers=2, policy=POLICY, name="train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared = _accelerator().prepare(loader)
    assert isinstance(prepared, DataLoader)
    torch.manual_seed(0)
    assert _sums(prepared) == expected
    assert dataset.killed
    report = prepared.report()
    assert (report.name, report.causes, prepared.policy) == ("train", {"died": 1}, POLICY)
    assert len(prepared) == 8


@pytest.mark.usefixtures("patched")
def test_nothing_is_inherited_where_nobody_rebuilds_a_loader(tmp_path: Path) -> None:
    """Many look for that attribute; it is Accelerate's function that rebuilds."""
    dataset = Killing(tmp_path, None)
    loader = DataLoader(dataset, 4, policy=POLICY, name="train")
    assert not hasattr(loader, "_is_accelerate_prepared")
    other = DataLoader(dataset, 4)
    assert (other.policy, other.name) == (None, None)
    _accelerator().prepare(loader)
    other = DataLoader(dataset, 4)
    assert (other.policy, other.name) == (None, None)
    kept = weakref.ref(dataset)
    del dataset, loader, other
    gc.collect()
    assert kept() is None


@pytest.mark.usefixtures("patched")
def test_batches_that_accelerate_skips_come_from_a_loader_with_the_same_policy_and_name(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    expected = _undisturbed(tmp_path)
    loader = DataLoader(Killing(tmp_path), 4, shuffle=True, num_workers=2, policy=POLICY, name="train")
    left = accelerate.skip_first_batches(_accelerator().prepare(loader), 3)
    torch.manual_seed(0)
    rest = _sums(left)
    assert (left.policy, left.name, len(rest), len(expected)) == (POLICY, "train", 5, 8)
    assert left.report().causes == ({"died": 1} if Killing(tmp_path).killed else {})


@pytest.mark.usefixtures("patched")
def test_accelerate_deals_no_samples_that_an_elastic_sampler_has_dealt(tmp_path: Path) -> None:
    data = pytest.importorskip("accelerate.data_loader")
    _accelerator()
    dealt: list[int] = []
    for rank in range(2):
        for more in ({"batch_size": 4}, {}):
            sampler = ElasticDistributedSampler(range(32), 2, rank, **({} if more else {"batch_size": 4}))
            given: Any = {"sampler": sampler, **more} if more else {"batch_sampler": sampler}
            loader = DataLoader(Killing(tmp_path, None), **given)
            prepared = data.prepare_data_loader(loader, num_processes=2, process_index=rank)
            dealt += [index for batch in prepared for index in batch[0][:, 0].floor().int().tolist()]
    assert sorted(dealt) == sorted([*range(32), *range(32)])


# ---------------------------------------------------------------- Lightning


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Any:
    return pytest.importorskip("lightning")


def _module(lightning: Any, seen: list[float]) -> Any:
    class Line(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(float(batch[1].sum()))
            return (self.layer(batch[0]).squeeze(1) - batch[1]).pow(2).mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.layer(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-6)

    return Line()


def _trainer(lightning: Any, folder: Path, **more: Any) -> Any:
    return lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **more,
    )  # fmt: skip


def test_lightning_fits_through_a_killed_worker_with_the_bytes_of_torch(lightning: Any, tmp_path: Path) -> None:
    def fit(make: Any, bad: int | None) -> tuple[list[float], list[torch.Tensor], Any]:
        torch.manual_seed(0)
        seen: list[float] = []
        module = _module(lightning, seen)
        train = make(Killing(tmp_path, bad), 4, shuffle=True, num_workers=2, persistent_workers=True)
        val = make(Killing(tmp_path, None), 4, num_workers=1, persistent_workers=True)
        _trainer(lightning, tmp_path, max_epochs=2).fit(module, train, val)
        return seen, [p.detach().clone() for p in module.parameters()], train

    expected_seen, expected_weights, _ = fit(torch.utils.data.DataLoader, None)
    seen, weights, loader = fit(DataLoader, 13)
    assert seen == expected_seen
    assert len(seen) == 16
    assert all(torch.equal(a, b) for a, b in zip(weights, expected_weights, strict=True))
    assert loader.report().causes == {"died": 1}
    loader.close()


def test_what_lightning_makes_of_a_loader_keeps_policy_and_name(lightning: Any, tmp_path: Path) -> None:
    from lightning.fabric.utilities.data import _update_dataloader

    loader = DataLoader(Killing(tmp_path), 4, num_workers=2, policy=POLICY, name="train")
    sampler = torch.utils.data.DistributedSampler(loader.dataset, num_replicas=2, rank=1)  # type: ignore[arg-type]
    made: Any = _update_dataloader(loader, sampler)
    assert type(made) is DataLoader
    assert (made.policy, made.name, made.sampler) == (POLICY, "train", sampler)
    assert len(_sums(made)) == 4
    assert made.report().causes == {"died": 1}


# ---------------------------------------------------------------- Hugging Face


def test_a_hugging_face_dataset_survives(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": [[i, i + 1] for i in range(96)], "label": list(range(96))})
    loader = DataLoader(table.with_format("torch"), 4, num_workers=2, persistent_workers=True)
    reference = torch.utils.data.DataLoader(table.with_format("torch"), 4)
    first = iter(loader)
    batches = [next(first)]
    processes_of(loader)[0].kill()
    batches += list(first)
    for got, expected in zip(batches, reference, strict=True):
        assert all(torch.equal(got[key], expected[key]) for key in ("x", "label"))
    assert loader.report().causes == {"died": 1}
    loader.close()


@pytest.mark.slow
@pytest.mark.usefixtures("patched")
def test_the_hugging_face_trainer_trains_through_a_killed_worker(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.layer(x).squeeze(1) - labels).pow(2).mean()}

    def train(bad: int | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Line()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4, num_train_epochs=2,
            dataloader_num_workers=2, report_to=[], save_strategy="no", disable_tqdm=True, learning_rate=1e-6,
        )  # fmt: skip
        dataset = Killing(tmp_path, bad, as_dict=True)
        transformers.Trainer(model=model, args=arguments, train_dataset=dataset).train()
        assert dataset.killed == (bad is not None)
        return [p.detach().clone() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(train(None), train(13), strict=True))


# ---------------------------------------------------------------- mid-epoch checkpoints, and pools


def test_a_lightning_checkpoint_in_mid_epoch_goes_on_at_the_batch(lightning: Any, tmp_path: Path) -> None:
    """Lightning keeps the loader's own state where it has one: the rest of the epoch comes, and nothing twice."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fit(stop: int, **more: Any) -> tuple[list[float], list[torch.Tensor]]:
        torch.manual_seed(0)
        seen: list[float] = []
        module = _module(lightning, seen)
        saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, max_epochs=2, max_steps=stop, callbacks=[saving],
        )  # fmt: skip
        with DataLoader(Killing(tmp_path, None), 4, shuffle=True, num_workers=2, persistent_workers=True) as train:
            trainer.fit(module, train, **more)
        return seen, [p.detach().clone() for p in module.parameters()]

    straight, weights = fit(-1)
    fit(3)
    rest, resumed = fit(-1, ckpt_path=tmp_path / "step=3.ckpt")
    assert rest == straight[3:]
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed, strict=True))


@pytest.mark.slow
def test_lightning_trains_and_validates_on_one_pool_through_a_killed_worker(lightning: Any, tmp_path: Path) -> None:
    def fit(bad: int | None, make: Any, **more: Any) -> list[float]:
        torch.manual_seed(0)
        seen: list[float] = []
        train = make(Killing(tmp_path, bad), 4, shuffle=True, num_workers=2, persistent_workers=True, **more)
        val = make(Killing(tmp_path, None), 4, num_workers=2, persistent_workers=True, **more)
        _trainer(lightning, tmp_path, max_epochs=2).fit(_module(lightning, seen), train, val)
        return seen

    expected = fit(None, torch.utils.data.DataLoader)
    with WorkerPool(2, start_method="forkserver") as pool:
        assert fit(13, DataLoader, policy=Policy(pool=pool)) == expected
        assert len(pool.shared_pool().pids) == 2
    assert Killing(tmp_path).killed


@pytest.mark.usefixtures("patched")
def test_what_accelerate_prepares_stays_on_its_pool(tmp_path: Path) -> None:
    expected = _undisturbed(tmp_path)
    with WorkerPool(2, start_method="forkserver") as pool:
        loader = DataLoader(Killing(tmp_path), 4, shuffle=True, num_workers=2, policy=Policy(pool=pool))
        prepared = _accelerator().prepare(loader)
        torch.manual_seed(0)
        assert _sums(prepared) == expected
        assert prepared.policy.pool is pool
        assert prepared.report().causes == {"died": 1}


# ---------------------------------------------------------------- Ultralytics


class InfiniteLoader(DataLoader[Any]):
    """As ``ultralytics.data.build.InfiniteDataLoader`` (8.4) is written: one iterator for ever, over a sampler that
    repeats."""

    iterator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "batch_sampler", _RepeatSampler(self.batch_sampler))
        self.iterator = None

    def __len__(self) -> int:
        return len(self.batch_sampler.sampler)  # type: ignore[union-attr, arg-type]

    def __iter__(self) -> Iterator[Any]:
        if self.iterator is None:
            self.iterator = self._get_iterator()
        for _ in range(len(self)):
            yield next(self.iterator)

    def __del__(self) -> None:
        try:
            for worker in getattr(self.iterator, "_workers", ()):
                if worker.is_alive():
                    worker.terminate()
            self.close()
        except Exception:
            pass

    def close(self) -> None:
        if hasattr(self.iterator, "_workers"):
            self.iterator._shutdown_workers()

    def reset(self) -> None:
        self.close()
        self.iterator = None


class _RepeatSampler:
    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from iter(self.sampler)


def test_a_subclass_as_ultralytics_has_it_goes_on_for_ever_and_is_reset(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dataset = Killing(tmp_path)
    loader = InfiniteLoader(dataset, 4, shuffle=True, num_workers=2, policy=POLICY)
    assert len(loader) == 8
    for _ in range(3):
        epoch = [index for batch in loader for index in batch[0][:, 0].floor().int().tolist()]
        assert sorted(epoch) == list(range(32))
    assert dataset.killed
    assert loader.report().causes == {"died": 1}
    before = [process.pid for process in processes_of(loader)]
    dataset.length = 16  # as it closes its mosaic: the dataset changes, and the workers are made anew
    loader.reset()
    assert gone(before)
    assert len(loader) == 4
    assert len(list(loader)) == 4
    after = [process.pid for process in processes_of(loader)]
    assert len(after) == 2
    del loader
    assert gone(after)


# ---------------------------------------------------------------- SAFELOADER_DISABLE


@pytest.mark.usefixtures("patched")
def test_plain_torch_for_comparison_runs_in_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _undisturbed(tmp_path)
    monkeypatch.setenv("SAFELOADER_DISABLE", "1")
    loader = torch.utils.data.DataLoader(Killing(tmp_path, None), 4, shuffle=True, num_workers=2)
    prepared = _accelerator().prepare(loader)
    torch.manual_seed(0)
    assert _sums(prepared) == expected
    assert type(prepared.base_dataloader._iterator) is type(None)
    assert not hasattr(prepared.base_dataloader, "state_dict")


def test_plain_torch_for_comparison_runs_in_lightning_and_is_saved_in_mid_epoch(
    lightning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    monkeypatch.setenv("SAFELOADER_DISABLE", "1")
    seen: list[float] = []
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, max_epochs=1, callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=3)],
    )  # fmt: skip
    trainer.fit(_module(lightning, seen), DataLoader(Killing(tmp_path, None), 4, shuffle=True, num_workers=0))
    assert len(seen) == 8
