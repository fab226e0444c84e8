"""Checkpoints are whole, hashed and finite; which are kept; which is the newest good one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from safeloader.training import CheckpointError, CheckpointStore, NonFiniteError, atomic_file, resume
from safeloader.training.atomic_file import read, read_manifest, write
from tests.training.conftest import Run


def _flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def _small(folder: Path) -> CheckpointStore:
    store = CheckpointStore(folder, run="a")
    for step in (1, 2):
        store.save(step, model=nn.Linear(1, 1))
    return store


def test_what_was_saved_is_what_is_loaded(store: CheckpointStore, run: Run) -> None:
    saved = store.save(7, metric=0.5, extra={"epoch": 3, "names": ("a", "b")}, **run.parts)
    found = store.latest_good()
    assert found == saved
    assert (found.step, found.metric, found.run, found.world_size) == (7, 0.5, "a", 1)
    assert found.kinds == {"model": "Sequential", "optimizer": "AdamW", "scheduler": "OneCycleLR"}
    loaded = store.load(found)
    assert loaded.extra == {"epoch": 3, "names": ("a", "b")}
    assert all(torch.equal(loaded.parts["model"][key], value) for key, value in run.model.state_dict().items())


def test_torch_itself_can_load_the_file(store: CheckpointStore, run: Run) -> None:
    saved = store.save(7, **run.parts)
    payload = torch.load(saved.path, weights_only=True)
    run.model.load_state_dict(payload["parts"]["model"])
    run.optimizer.load_state_dict(payload["parts"]["optimizer"])


def test_an_empty_folder_has_nothing_good(store: CheckpointStore) -> None:
    assert store.latest_good() is None
    assert (store.checkpoints(), store.passed_over) == ([], [])


# ---------------------------------------------------------------- which are kept


def test_the_last_every_nth_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, run="a", keep_last=2, keep_every=5, best="max")
    for step, metric in enumerate([0.1, 0.2, 0.6, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0], 1):
        store.save(step, metric=metric, model=nn.Linear(1, 1))
    assert [found.step for found in store.checkpoints()] == [12, 11, 10, 5, 3]
    best = store.best_good()
    assert best is not None and best.step == 3


def test_of_a_metric_that_should_be_small_the_smallest_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, run="a", keep_last=1, best="min")
    for step, metric in enumerate([0.5, 0.2, 0.3, float("nan"), float("-inf"), None], 1):
        store.save(step, metric=metric, model=nn.Linear(1, 1))
    assert [(found.step, found.metric) for found in store.checkpoints()] == [(6, None), (2, 0.2)]


def test_after_going_back_the_newest_is_what_was_saved_last_not_the_greatest_step(store: CheckpointStore) -> None:
    for step in (10, 20, 11):
        store.save(step, model=nn.Linear(1, 1))
    found = store.latest_good()
    assert found is not None and found.step == 11


def test_damaged_files_neither_count_nor_push_out_the_good_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, run="a", keep_last=2)
    for step in (1, 2):
        store.save(step, model=nn.Linear(1, 1))
    newest = store.checkpoints()[0].path
    newest.write_bytes(newest.read_bytes()[:-5])
    store.save(3, model=nn.Linear(1, 1))
    assert [found.step for found in store.checkpoints()] == [3, 1]
    assert newest.exists()


# ---------------------------------------------------------------- damage


def _check_cut(tmp_path: Path, lengths: list[int] | None) -> None:
    store = _small(tmp_path)
    older, newest = store.checkpoints()[1], store.checkpoints()[0].path
    whole = newest.read_bytes()
    for length in range(len(whole)) if lengths is None else [length % len(whole) for length in lengths]:
        newest.write_bytes(whole[:length])
        assert store.latest_good() == older, length
        (passed,) = store.passed_over
        assert passed.path == newest and "damaged" in passed.why
    newest.write_bytes(whole)
    assert store.latest_good() != older


def test_a_file_cut_at_any_of_many_lengths_is_passed_over(tmp_path: Path) -> None:
    _check_cut(tmp_path, [0, 1, 50, 100, 1000, -1, -2, -8, -9, -81, -88, -89, -200, -400, *range(7, 4000, 211)])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_file_cut_at_every_length_is_passed_over(tmp_path: Path) -> None:
    _check_cut(tmp_path, None)


def _check_flips(tmp_path: Path, step: int) -> None:
    store = _small(tmp_path)
    older, newest = store.checkpoints()[1], store.checkpoints()[0].path
    for at in range(0, newest.stat().st_size, step):
        _flip(newest, at, at % 8)
        assert store.latest_good() == older, at
        assert "damaged" in store.passed_over[0].why
        _flip(newest, at, at % 8)


def test_a_flipped_bit_at_any_of_many_places_is_seen(tmp_path: Path) -> None:
    _check_flips(tmp_path, 97)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_flipped_bit_in_any_byte_is_seen(tmp_path: Path) -> None:
    _check_flips(tmp_path, 1)


def test_bytes_added_at_the_end_are_seen(tmp_path: Path) -> None:
    store = _small(tmp_path)
    older, newest = store.checkpoints()[1], store.checkpoints()[0].path
    newest.write_bytes(newest.read_bytes() + b"\0")
    assert store.latest_good() == older


def test_a_file_that_is_no_checkpoint_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.000001.step1.ckpt"
    torch.save({"model": torch.ones(3)}, path)
    store = CheckpointStore(tmp_path, run="a")
    with pytest.raises(CheckpointError, match="no checkpoint of safeloader") as caught:
        store.load(path)
    assert caught.value.path == str(path)
    assert store.latest_good() is None


def test_a_file_that_cannot_be_opened_is_an_error_that_says_so(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        store.load(store.folder / "nowhere.ckpt")


def test_all_damaged_is_nothing_with_every_reason(tmp_path: Path) -> None:
    store = _small(tmp_path)
    for found in store.checkpoints():
        found.path.write_bytes(b"")
    assert store.latest_good() is None
    assert len(store.passed_over) == 2
    resumed = resume(store, model=nn.Linear(1, 1))
    assert not resumed
    assert "nothing to resume for run 'a'" in str(resumed) and str(resumed).count("damaged") == 2


# ---------------------------------------------------------------- finite


def test_what_is_not_finite_is_not_saved_and_is_named(store: CheckpointStore, run: Run) -> None:
    good = store.save(1, **run.parts)
    with torch.no_grad():
        run.model[3].weight[0, 2] = float("nan")
    with pytest.raises(NonFiniteError, match=r"checkpoint 2 is not finite: model.3.weight \(1 NaN of 8\)") as caught:
        store.save(2, **run.parts)
    assert (caught.value.kind, caught.value.names) == ("checkpoint", ["model.3.weight"])
    assert [found.step for found in store.checkpoints()] == [1]
    assert store.latest_good() == good


def test_an_optimizers_moments_are_looked_at_too(store: CheckpointStore, run: Run) -> None:
    run.optimizer.state[run.model[0].weight]["exp_avg"][0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"optimizer.state\[0\].exp_avg \(4 Inf of 32\)"):
        store.save(1, **run.parts)


def test_tensors_that_were_added_are_looked_at_too_and_numbers_are_not(store: CheckpointStore) -> None:
    with pytest.raises(NonFiniteError, match=r"extra.model.w \(1 NaN of 2\)"):
        store.save(1, extra={"model": {"w": torch.tensor([0.0, float("nan")])}})
    store.save(1, extra={"best": float("inf")})
    assert store.latest_good() is not None


def test_infinities_that_are_meant_are_saved(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    with pytest.raises(NonFiniteError, match=r'may_be_infinite=\["model.mask"\]'):
        CheckpointStore(tmp_path, run="a").save(1, model=model)
    store = CheckpointStore(tmp_path, run="a", may_be_infinite=["*.mask"])
    store.save(1, model=model)
    assert store.latest_good() is not None
    with torch.no_grad():
        model.mask[0] = float("nan")
    with pytest.raises(NonFiniteError):
        store.save(2, model=model)


def test_a_checkpoint_with_nan_that_somebody_else_wrote_is_passed_over(tmp_path: Path) -> None:
    store = _small(tmp_path)
    older, newest = store.checkpoints()[1], store.checkpoints()[0].path
    manifest, payload = read(newest)
    payload["parts"]["model"]["bias"][0] = float("nan")
    write(newest, payload, manifest)
    assert store.latest_good() == older
    assert "model.bias (1 NaN of 1)" in store.passed_over[0].why


# ---------------------------------------------------------------- whose it is


def test_another_runs_checkpoint_is_never_taken(tmp_path: Path, run: Run) -> None:
    other = CheckpointStore(tmp_path, run="old")
    theirs = other.save(99, **run.parts)
    store = CheckpointStore(tmp_path, run="new", keep_last=1)
    before = run.weights()
    resumed = resume(store, **run.parts)
    assert not resumed and run.weights() == before
    assert "belongs to run 'old'; this store is of run 'new'" in str(resumed)
    with pytest.raises(CheckpointError, match="belongs to run 'old'"):
        store.load(theirs)
    renamed = tmp_path / "new.000009.step9.ckpt"
    shutil.copy(theirs.path, renamed)
    assert store.latest_good() is None
    mine = [store.save(step, **run.parts) for step in (1, 2)]
    assert store.latest_good() == mine[1]
    assert [found.step for found in store.checkpoints()] == [2]
    assert theirs.path.exists() and renamed.exists(), "the other run's checkpoints are untouched"
    assert other.latest_good() is not None


@pytest.mark.parametrize("run_name", ["", " a", "../up", "a/b", "x" * 101])
def test_a_run_needs_a_name_that_can_be_part_of_a_files_name(tmp_path: Path, run_name: str) -> None:
    with pytest.raises(CheckpointError, match="run="):
        CheckpointStore(tmp_path, run=run_name)


@pytest.mark.parametrize("wrong", [{"keep_last": 0}, {"keep_every": 0}, {"best": "most"}])
def test_arguments_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        CheckpointStore(tmp_path, run="a", **wrong)


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        CheckpointStore(tmp_path / "file" / "folder", run="a")


def test_the_manifest_is_readable_and_holds_no_path(tmp_path: Path) -> None:
    store = _small(tmp_path)
    manifest = read_manifest(store.checkpoints()[0].path)
    assert manifest["torch"] == torch.__version__
    assert str(tmp_path) not in json.dumps(manifest)
    moved = tmp_path.with_name("moved")
    shutil.copytree(tmp_path, moved)
    found = CheckpointStore(moved, run="a").latest_good()
    assert found is not None and found.path.parent == moved


def test_a_format_of_the_future_is_passed_over(tmp_path: Path) -> None:
    store = _small(tmp_path)
    older, newest = store.checkpoints()[1], store.checkpoints()[0].path
    manifest, payload = read(newest)
    write(newest, payload, {**manifest, "format": 2})
    assert store.latest_good() == older
    assert "format is 2" in store.passed_over[0].why


# ---------------------------------------------------------------- names, places, space, forgeries


@pytest.mark.parametrize("name", ["v1.2", "lr=0.1", "exp 1", "a.000001.step2", "resnet50+ema@8, b"])
def test_names_that_runs_have(tmp_path: Path, run: Run, name: str) -> None:
    store, other = (CheckpointStore(tmp_path, run=n, keep_last=1) for n in (name, name.split(".", maxsplit=1)[0] + "x"))
    for step in (1, 2):
        store.save(step, **run.parts)
        other.save(step + 10, **run.parts)
    found = CheckpointStore(tmp_path, run=name).latest_good()
    assert found is not None and (found.run, found.step) == (name, 2)


@pytest.mark.parametrize("name", ["", " a", ".hidden", "a/b", "a\\b", "x*", "a\n", "a ", "a.", "é", "a" * 101])
def test_names_that_no_file_should_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="a run's name"):
        CheckpointStore(tmp_path, run=name)


def test_a_relative_folder_stays_where_it_is(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore("here", run="a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.save(1, **run.parts)
    assert len(list((tmp_path / "here").glob("*.ckpt"))) == 1 and store.latest_good() is not None


def test_a_pipe_in_the_folder_is_passed_over(tmp_path: Path, run: Run) -> None:
    store = CheckpointStore(tmp_path, run="a")
    saved = store.save(1, **run.parts)
    os.mkfifo(tmp_path / "a.000009.step9.ckpt")
    os.mkfifo(tmp_path / ".a.000009.step9.ckpt.1-aa.tmp")
    store = CheckpointStore(tmp_path, run="a")
    assert store.latest_good() == saved
    assert "no file" in store.passed_over[0].why


FORGED: list[Any] = [
    ({}, {}),
    ({"run": None}, {}),
    ([], {}),
    ({"step": "nine"}, {}),
    ({"kinds": 3}, {}),
    ({}, []),
    ({}, {"parts": []}),
    ({}, {"ranks": []}),
    ({}, {"ranks": [3]}),
    ({}, {"extra": None}),
]


@pytest.mark.parametrize("number", range(len(FORGED)))
def test_forged_checkpoints_with_right_digests_are_passed_over(tmp_path: Path, run: Run, number: int) -> None:
    head, body = FORGED[number]
    store = CheckpointStore(tmp_path, run="a")
    good = store.save(1, **run.parts)
    manifest, payload = atomic_file.read(good.path)
    whole = number == 0
    forged_head = head if isinstance(head, list) or whole else {**manifest, **head}
    forged_body = {} if whole else body if isinstance(body, list) else {**payload, **body}
    atomic_file.write(tmp_path / "a.000009.step9.ckpt", forged_body, forged_head)
    assert store.latest_good() == good
    assert len(store.passed_over) == 1


def test_a_full_disk_gives_up_what_would_go_anyway(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer checkpoints were asked for, and the older ones fill the disk."""
    many = CheckpointStore(tmp_path, run="a", keep_last=5)
    for step in range(5):
        many.save(step, **run.parts)
    size = next(tmp_path.glob("*.ckpt")).stat().st_size
    room = 5 * size + size // 2

    def write_all(file: Any, payload: Any, manifest: Any, real: Any = atomic_file._write_all) -> None:
        used = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix == ".ckpt")
        if used + size > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, payload, manifest)

    monkeypatch.setattr(atomic_file, "_write_all", write_all)
    with pytest.raises(CheckpointError, match="could not be written"):
        CheckpointStore(tmp_path, run="a", keep_last=9).save(5, **run.parts)
    assert len(many.checkpoints()) == 5
    fewer = CheckpointStore(tmp_path, run="a", keep_last=2)
    fewer.save(5, **run.parts)
    assert [found.step for found in fewer.checkpoints()] == [5, 4]
