"""``safeloader.audit``: incident 3's question, does the loader serve the same samples again and again?"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data as tud
from click.testing import CliRunner
from torch.utils.data import DataLoader

import safeloader
from safeloader import AuditError, AuditReport, Policy
from safeloader.cli import main
from tests.api import audited
from tests.programs import run

pytestmark = pytest.mark.usefixtures("forked")

INLINE = Policy(max_processes=0)
"""Workers without processes: each has its copy of the dataset and its generators all the same."""


def _audit(dataset: Any, workers: int = 2, epochs: int = 2, **more: Any) -> AuditReport:
    arguments: dict[str, Any] = {
        "batch_size": 4,
        "shuffle": None if "sampler" in more or "batch_sampler" in more else True,
    }
    if "batch_sampler" in more:
        arguments = {}
    if isinstance(dataset, tud.IterableDataset):
        arguments = {"batch_size": 4}
    audits = {name: more.pop(name) for name in ("set_epoch", "batches") if name in more}
    loader = safeloader.DataLoader(dataset, num_workers=workers, policy=INLINE, **{**arguments, **more})
    return safeloader.audit(loader, epochs, **audits)


def _kinds(report: AuditReport, level: str = "warning") -> set[str]:
    return {finding.kind for finding in report.findings if finding.level == level}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_right_dataset_passes(workers: int) -> None:
    report = safeloader.audit(DataLoader(audited.Right(), 4, shuffle=True, num_workers=workers))
    assert report.ok, str(report)
    assert report.findings == []
    assert [(e.samples, e.different, e.missing, e.repeated) for e in report.epochs] == [(24, 24, 0, 0)] * 2
    assert sum(report.epochs[0].per_worker.values()) == 24
    assert len(report.epochs[0].per_worker) == max(workers, 1)


@pytest.mark.parametrize(
    "generator", [np.random.default_rng(0), np.random.RandomState(0), random.Random(0), torch.Generator().manual_seed(0)],
    ids=lambda generator: type(generator).__name__,
)  # fmt: skip
def test_a_generator_kept_on_the_dataset_is_named_with_its_path(generator: Any) -> None:
    report = _audit(audited.OwnGenerator(generator))
    assert _kinds(report) == {"same_random_stream"}
    assert "across workers" in str(report)
    assert "dataset.transforms[0]['generator']" in str(report)


def test_without_workers_such_a_generator_is_right_and_is_put_back() -> None:
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    assert _audit(audited.OwnGenerator(generator), workers=0).ok
    assert generator.bit_generator.state == before


def test_workers_that_are_made_anew_repeat_such_a_generator_each_epoch() -> None:
    report = _audit(audited.OwnGenerator(np.random.default_rng(0)), workers=1)
    assert "across epochs" in str(report)
    assert _audit(audited.OwnGenerator(np.random.default_rng(0)), workers=1, persistent_workers=True).ok


def test_fixed_seeds_in_worker_init_fn_are_found() -> None:
    report = _audit(audited.Right(), worker_init_fn=audited.fixed_seeds)
    assert _kinds(report) == {"same_random_stream"}
    assert "across workers: torch" in str(report)
    assert "across epochs: numpy" in str(report)


def test_a_dataset_that_seeds_itself_for_every_sample_is_found() -> None:
    assert _kinds(_audit(audited.SeedsItself())) == {"same_random_stream"}


def test_a_dataset_that_ignores_the_index_is_found() -> None:
    assert _kinds(_audit(audited.IgnoresIndex())) == {"equal_samples"}


def test_random_numbers_that_change_nothing_are_found() -> None:
    assert _kinds(_audit(audited.IgnoresAugmentation())) == {"frozen_augmentation"}


def test_a_dataset_that_loads_batches_at_once_passes() -> None:
    assert _audit(audited.AtOnce()).ok


# ---------------------------------------------------------------- coverage and order


class _Broken(tud.Sampler[int]):
    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Any:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def test_indices_never_and_repeatedly_served_are_named() -> None:
    report = _audit(audited.Right(), 0, sampler=_Broken([*range(20), 3, 3]))
    assert {"never_served", "repeated"} <= _kinds(report)
    assert "4 indices were never served: 20, 21, 22, 23" in str(report)
    assert "1 index was served more than once: 3" in str(report)
    assert (report.epochs[0].missing, report.epochs[0].repeated) == (4, 1)


def test_what_drop_last_and_choosing_samplers_leave_out_is_only_noted() -> None:
    report = _audit(audited.Right(22), 0, drop_last=True)
    assert report.ok
    assert _kinds(report, "note") == {"dropped"}
    report = _audit(audited.Right(), 0, sampler=tud.WeightedRandomSampler([1.0] * 24, 24))
    assert report.ok
    assert _kinds(report, "note") == {"never_served", "repeated"}
    assert _audit(audited.Right(), 0, sampler=tud.SubsetRandomSampler(range(9))).ok


def test_equal_orders_are_found_and_a_forgotten_set_epoch_is_noted() -> None:
    fixed = _Broken(random.Random(0).sample(range(24), 24))
    assert _kinds(_audit(audited.Right(), 0, sampler=fixed)) == {"same_order"}
    sampler = tud.DistributedSampler(audited.Right(), num_replicas=2, rank=1)
    report = _audit(audited.Right(), 0, sampler=sampler)
    assert report.ok
    assert "set_epoch" in str(report)
    assert _audit(audited.Right(), 0, sampler=sampler, set_epoch=True).findings == []
    sequential = _audit(audited.Right(), 0, sampler=tud.SequentialSampler(audited.Right()))
    assert sequential.ok


def test_a_part_of_an_epoch_says_nothing_of_coverage() -> None:
    report = _audit(audited.Right(), 0, batches=2)
    assert report.findings == []
    assert report.epochs[0].samples == 8


# ---------------------------------------------------------------- iterable datasets


def test_an_iterable_dataset_that_does_not_shard_is_found() -> None:
    report = _audit(audited.Stream(sharded=False))
    assert _kinds(report) == {"not_sharded"}
    assert report.epochs[0].samples == 24
    assert _audit(audited.Stream(sharded=True)).ok
    assert _audit(audited.Stream(sharded=False), worker_init_fn=audited.shard).ok


# ---------------------------------------------------------------- what it leaves behind


def test_the_loader_and_the_generators_are_as_before() -> None:
    def order(audited_before: bool) -> list[Any]:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(audited.Right(), 4, shuffle=True, generator=generator)
        if audited_before:
            safeloader.audit(loader)
        return [batch[0].tolist() for batch in loader] + [torch.rand(1), np.random.rand(), random.random()]

    assert order(True) == order(False)


def test_what_cannot_be_audited_says_why() -> None:
    pipe = tud.datapipes.iter.IterableWrapper(range(3))
    with pytest.raises(AuditError, match="data pipes"):
        safeloader.audit(DataLoader(pipe))

    class Stuck(_Broken):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not me")

    with pytest.raises(AuditError, match=r"cannot be copied \(not me\)"):
        safeloader.audit(DataLoader(audited.Right(), sampler=Stuck([1])))
    with pytest.raises(ValueError, match="at least one epoch"):
        safeloader.audit(DataLoader(audited.Right()), 0)


# ---------------------------------------------------------------- command line


def test_on_the_command_line() -> None:
    said = run("-m", "safeloader", "audit", "tests/api/audited.py:made", "--json", "--batches", "2", seconds=100)
    assert said.code == 1, said.err
    report = json.loads(said.out)
    assert [finding["kind"] for finding in report["findings"]] == ["same_random_stream"]


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return CliRunner().invoke(main, ["audit", *arguments])


def test_a_right_loader_ends_with_status_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    said = _command(monkeypatch, "tests.api.audited:plain", "--epochs", "1", "--batches", "2")
    assert (said.exit_code, "nothing wrong" in said.output) == (0, True), said.output


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("made", 2, "names no object"),
        ("nowhere.py:made", 2, "there is no file nowhere.py"),
        ("tests.api.audited:missing", 2, "has no missing"),
        ("tests.api.audited:nothing", 2, "is of type int, not a DataLoader"),
        ("no_such_module:made", 2, "there is no module no_such_module"),
    ],
)
def test_wrong_names_are_clear_errors(monkeypatch: pytest.MonkeyPatch, name: str, status: int, words: str) -> None:
    said = _command(monkeypatch, name)
    assert (said.exit_code, words in said.output) == (status, True), said.output
