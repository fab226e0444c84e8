"""resume() from what others wrote: a plain state dict, in memory or in a file of any kind."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from safeloader.errors import CheckpointError, NonFiniteError
from safeloader.training import CheckpointStore, resume
from tests.training.conftest import Run


def _plain(run: Run, path: Path) -> None:
    torch.save(run.model.state_dict(), path)


def _usual(run: Run, path: Path) -> None:
    torch.save({"epoch": 7, "model_state_dict": run.model.state_dict(), "optimizer_state_dict": run.optimizer.state_dict(),
                "best_acc1": torch.tensor(0.5)}, path)  # fmt: skip


def _wrapped(run: Run, path: Path) -> None:
    torch.save({"state_dict": {f"module.{key}": value for key, value in run.model.state_dict().items()}}, path)


def _twice(run: Run, path: Path) -> None:
    torch.save({f"module._orig_mod.{key}": value for key, value in run.model.state_dict().items()}, path)


def _lightning(run: Run, path: Path) -> None:
    inner = {f"model.{key}": value for key, value in run.model.state_dict().items()}
    torch.save({"pytorch-lightning_version": "2.5", "state_dict": {**inner, "loss.temperature": torch.ones(1)},
                "optimizer_states": [run.optimizer.state_dict()], "epoch": 7}, path)  # fmt: skip


def _pickled(run: Run, path: Path) -> None:
    torch.save({"epoch": 7, "model": copy.deepcopy(run.model)}, path)


def _averaged(run: Run, path: Path) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(run.model, use_buffers=True).state_dict(), path)


def _safetensors(run: Run, path: Path) -> None:
    save = pytest.importorskip("safetensors.torch").save_file
    save(run.model.state_dict(), path)


def _dcp(run: Run, path: Path) -> None:
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")
    dcp.save({"model": run.model.state_dict()}, checkpoint_id=path, no_dist=True)


KINDS: dict[str, Callable[[Run, Path], None]] = {
    "plain.pt": _plain, "usual.pth": _usual, "wrapped.pt": _wrapped, "twice.pt": _twice, "lightning.ckpt": _lightning,
    "pickled.pt": _pickled, "averaged.pt": _averaged, "w.safetensors": _safetensors, "dcp": _dcp,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_model_gets_its_weights_from_each_kind(store: CheckpointStore, run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    KINDS[name](run, path)
    fresh = Run(seed=5)
    resumed = resume(store, checkpoint=path, model=fresh.model)
    assert fresh.weights() == run.weights() and resumed and path.name in str(resumed)
    assert any("begin anew" in note for note in resumed.notes)
    if name in ("usual.pth", "lightning.ckpt", "pickled.pt"):
        assert resumed.extra == {"epoch": 7}
    if name == "lightning.ckpt":
        assert "model: left out: loss.temperature" in resumed.notes
    if name in ("usual.pth", "lightning.ckpt"):
        resume(store, checkpoint=path, model=fresh.model, optimizer=fresh.optimizer, learning_rate=0.003)
        assert fresh.optimizer.param_groups[0]["lr"] == pytest.approx(0.003)
        state = fresh.optimizer.state_dict()["state"]
        assert torch.equal(state[0]["exp_avg"], run.optimizer.state_dict()["state"][0]["exp_avg"])


def test_a_state_dict_in_memory_without_a_store(run: Run) -> None:
    fresh = Run(seed=5)
    resumed = resume(None, checkpoint=run.model.state_dict(), model=fresh.model)
    assert fresh.weights() == run.weights()
    assert str(resumed).startswith("it begins with a state dict")
    fresh = Run(seed=6)
    resume(None, checkpoint={"net": run.model.state_dict(), "optim": run.optimizer.state_dict()}, model=fresh.model,
           optimizer=fresh.optimizer)  # fmt: skip
    assert fresh.weights() == run.weights()


def test_the_store_comes_first_and_the_foreign_one_begins(store: CheckpointStore, run: Run, tmp_path: Path) -> None:
    _plain(run, tmp_path / "best.pt")
    fresh = Run(seed=5)

    def start() -> Any:
        return resume(store, model=fresh.model) or resume(store, checkpoint=tmp_path / "best.pt", model=fresh.model)

    assert start().checkpoint.path.name == "best.pt"
    fresh.train(1)
    store.save(4, model=fresh.model)
    assert start().step == 4


def test_what_does_not_fit_changes_nothing(store: CheckpointStore, run: Run, tmp_path: Path) -> None:
    other = Run(seed=5, width=16)
    before = other.weights()
    with pytest.raises(CheckpointError, match="does not fit"):
        resume(store, checkpoint=run.model.state_dict(), model=other.model)
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        resume(store, checkpoint=run.model.state_dict(), model=Run().model, optimizer=Run().optimizer)
    assert other.weights() == before
    resumed = resume(store, checkpoint=run.model.state_dict(), model=other.model, strict=False)
    assert any("0.weight" in note for note in resumed.notes)
    two = {"model": run.model.state_dict()}
    with pytest.raises(CheckpointError, match="holds no critic"):
        resume(store, checkpoint=two, model=Run().model, critic=Run().model)


def test_what_is_not_finite_or_damaged_is_refused(store: CheckpointStore, run: Run, tmp_path: Path) -> None:
    state = copy.deepcopy(run.model.state_dict())
    state["0.weight"][0, 0] = float("nan")
    fresh = Run(seed=5)
    before = fresh.weights()
    with pytest.raises(NonFiniteError, match=r"model\.0\.weight"):
        resume(store, checkpoint=state, model=fresh.model)
    state["0.weight"][0, 0] = float("inf")
    resume(store, checkpoint=state, model=Run().model, may_be_infinite=["model.0.weight"])
    _plain(run, tmp_path / "cut.pt")
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for path in (tmp_path / "cut.pt", tmp_path / "none.pt"):
        with pytest.raises(CheckpointError, match=path.name):
            resume(store, checkpoint=path, model=fresh.model)
    assert fresh.weights() == before


def test_nothing_in_a_file_is_executed(store: CheckpointStore, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": {"0.weight": torch.ones(1)}, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        resume(store, checkpoint=tmp_path / "evil.pt", model=Run().model)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_folder_goes_on_in_this_one(tmp_path: Path, run: Run) -> None:
    old = CheckpointStore(tmp_path / "old", run="a")
    old.save(3, model=run.model, optimizer=run.optimizer)
    new, fresh = CheckpointStore(tmp_path / "new", run="a"), Run(seed=5)
    found = old.latest_good()
    assert found is not None
    for one in (found, found.path, str(found.path)):
        fresh = Run(seed=5)
        resumed = resume(new, checkpoint=one, model=fresh.model, optimizer=fresh.optimizer)
        assert resumed.step == 3 and fresh.weights() == run.weights()
    saved = new.save(4, model=fresh.model)
    assert saved.path.parent == tmp_path / "new" and len(old.checkpoints()) == 1
    with pytest.raises(CheckpointError, match="belongs to run 'a'"):
        resume(CheckpointStore(tmp_path / "new", run="b"), checkpoint=found.path, model=fresh.model)
    resume(None, checkpoint=found.path, model=fresh.model)


def test_neither_a_store_nor_a_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="no store"):
        resume(None, model=nn.Linear(1, 1))
