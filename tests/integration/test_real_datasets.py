"""Datasets as people use them, under faults: exact to the byte against undisturbed torch, or named."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader

from safeloader import DataLoader, DivergenceError, Policy
from tests.runtime.harness import _bytes, kill_all, processes_of, seed

pytestmark = pytest.mark.usefixtures("forked")


def torchs(dataset: Any, **options: Any) -> list[bytes]:
    seed()
    return [_bytes(batch) for batch in TorchLoader(dataset, num_workers=2, multiprocessing_context="fork", **options)]


def disturbed(
    dataset: Any, at: tuple[int, ...] = (2, 5), deed: str = "kill", **options: Any
) -> tuple[list[bytes], Any]:
    policy = Policy(batch_timeout=1.5, max_restarts=1000, **options.pop("policy", {}))
    with DataLoader(dataset, num_workers=2, policy=policy, **options) as loader:
        seed()
        got = []
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if number in at and deed == "kill":
                kill_all(loader)
            elif number in at:
                processes_of(loader)[number % 2].suspend()
        return got, loader.report()


# ---------------------------------------------------------------- MONAI


def monai_dataset(seeded: bool) -> Any:
    data = pytest.importorskip("monai.data")
    transforms = pytest.importorskip("monai.transforms")
    compose = transforms.Compose(
        [
            transforms.RandGaussianNoise(prob=0.7),
            transforms.RandFlip(prob=0.5, spatial_axis=0),
            transforms.OneOf(
                [transforms.RandScaleIntensity(0.3, prob=1.0), transforms.RandShiftIntensity(0.3, prob=1.0)]
            ),
            transforms.RandSpatialCrop((6, 6), random_size=False),
        ]
    )
    images = [np.full((1, 8, 8), number, dtype=np.float32) + np.arange(8, dtype=np.float32) for number in range(40)]
    return data.Dataset(images, compose.set_random_state(3) if seeded else compose)


def check_monai(init: bool, deed: str, policy: dict[str, Any]) -> None:
    dataset = monai_dataset(seeded=not init)
    options: dict[str, Any] = {"batch_size": 4}
    if init:
        options["worker_init_fn"] = pytest.importorskip("monai.data.utils").worker_init_fn
    got, report = disturbed(dataset, (3,), deed, policy=policy, **options)
    assert got == torchs(dataset, **options)
    assert report.faults
    assert report.replays == []  # transforms keep what they drew last in attributes: that is made again


@pytest.mark.timeout(600)  # importing monai takes each process ten seconds, on a busy machine a minute
@pytest.mark.parametrize(
    "init",
    [pytest.param(False, id="seeded once"), pytest.param(True, id="by monai's worker_init_fn", marks=pytest.mark.slow)],
)
def test_monais_random_transforms_go_on_to_the_byte(init: bool) -> None:
    check_monai(init, "kill", {"max_processes": 1})


@pytest.mark.stress
@pytest.mark.timeout(0)
@pytest.mark.parametrize("deed", ["kill", "stop"])
@pytest.mark.parametrize("init", [False, True], ids=["seeded once", "by monai's worker_init_fn"])
@pytest.mark.parametrize("policy", [{}, {"standby": 1}], ids=["two processes", "a standby"])
def test_they_do_so_in_other_processes_too(init: bool, deed: str, policy: dict[str, Any]) -> None:
    check_monai(init, deed, policy)


# ---------------------------------------------------------------- webdataset


def shards(folder: Path) -> str:
    webdataset = pytest.importorskip("webdataset")
    for shard in range(4):
        with webdataset.TarWriter(f"{folder}/w-{shard:06d}.tar") as writer:
            for number in range(16):
                writer.write({"__key__": f"{shard}-{number}", "n.cls": shard * 16 + number})
    return f"{folder}/w-{{000000..000003}}.tar"


def webdata(folder: Path, shuffled: bool) -> Any:
    webdataset = pytest.importorskip("webdataset")
    data = webdataset.WebDataset(shards(folder), shardshuffle=4 if shuffled else False, seed=None if shuffled else 3)
    return (data.shuffle(32) if shuffled else data).decode().to_tuple("n.cls")


def test_webdatasets_shards_in_order_come_again_as_they_were(tmp_path: Path) -> None:
    dataset = webdata(tmp_path, shuffled=False)
    got, report = disturbed(dataset, batch_size=4)
    assert got == torchs(dataset, batch_size=4)
    assert {replay.outcome for replay in report.replays} == {"same"}


def test_webdatasets_unseeded_shuffle_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DivergenceError, match=r"reads its epoch again, and it is not the same"):
        disturbed(webdata(tmp_path, shuffled=True), batch_size=4, policy={"shadow": False})
    assert "no batch is lost" not in caplog.text


def test_webdatasets_unseeded_shuffle_may_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = {"on_divergence": "warn", "shadow": False}
    _, report = disturbed(webdata(tmp_path, shuffled=True), batch_size=4, policy=policy)
    assert report.divergences >= 1
    assert "samples may come twice or never" in caplog.text
    assert "no batch is lost" not in caplog.text


# ---------------------------------------------------------------- Hugging Face


def _tens(rows: dict[str, list[int]]) -> dict[str, list[int]]:
    return {"i": [10 * i for i in rows["i"]]}


def _odd(row: dict[str, int]) -> bool:
    return row["i"] % 2 == 1


def _packed(rows: dict[str, list[int]]) -> dict[str, list[list[int]]]:
    """Three rows to one."""
    return {"i": [rows["i"][n : n + 3] for n in range(0, len(rows["i"]) - 2, 3)]}


def stream(form: str) -> Any:
    datasets = pytest.importorskip("datasets")
    many = datasets.Dataset.from_dict({"i": list(range(96))}).to_iterable_dataset(num_shards=4)
    more = datasets.Dataset.from_dict({"i": list(range(1000, 1096))}).to_iterable_dataset(num_shards=4)
    forms = {
        "plain": lambda: many,
        "shuffled": lambda: many.shuffle(seed=3, buffer_size=16),
        "interleaved": lambda: datasets.interleave_datasets([many, more], seed=5, probabilities=[0.6, 0.4]),
        "batched": lambda: many.shuffle(seed=3, buffer_size=16).batch(4),
        "mapped": lambda: many.shuffle(seed=3, buffer_size=16).map(_tens, batched=True, batch_size=5),
        "filtered": lambda: many.filter(_odd).shuffle(seed=3, buffer_size=16),
        "packed": lambda: many.shuffle(seed=3, buffer_size=16).map(_packed, batched=True, batch_size=12),
    }
    return forms[form]().with_format("torch")


# Importing datasets takes each process seconds.
SLOW_FORMS = ("plain", "interleaved", "batched", "mapped", "filtered")
FORMS = ("shuffled", "packed", *(pytest.param(form, marks=pytest.mark.slow) for form in SLOW_FORMS))


@functools.cache
def reference(form: str) -> list[bytes]:
    return torchs(stream(form), batch_size=4)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_of_hugging_face_is_exact_though_its_state_is_not(form: str) -> None:
    got, report = disturbed(stream(form), batch_size=4, at=(1, 3))
    assert got == reference(form)
    assert report.replays
    assert {replay.outcome for replay in report.replays} == {"same"}


@pytest.mark.parametrize("form", FORMS)
def test_resuming_from_its_state_is_exact_or_named(form: str) -> None:
    with DataLoader(stream(form), 4, num_workers=2, snapshot_every_n_steps=2) as loader:
        seed()
        got = []
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if number == 2:
                state = loader.state_dict()
    with DataLoader(stream(form), 4, num_workers=2) as loader:
        loader.load_state_dict(state)
        rest = [_bytes(batch) for batch in loader]
        replays = loader.report().replays
    assert rest == got[3:] or any(replay.outcome in ("unknown", "differs") for replay in replays)


def test_each_sample_comes_once_from_a_shuffled_stream() -> None:
    with DataLoader(stream("shuffled"), 4, num_workers=2) as loader:
        seen: Counter[int] = Counter()
        for number, batch in enumerate(loader):
            seen.update(torch.as_tensor(batch["i"]).tolist())
            if number == 2:  # where its load_state_dict raised an IndexError
                kill_all(loader)
    assert seen == Counter(range(96))
