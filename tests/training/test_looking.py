"""``safeloader checkpoint``: the checkpoints of others are listed and checked, with nothing of them executed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from safeloader.cli import main
from safeloader.training import CheckpointStore
from safeloader.training.looking import look_at
from tests.training.conftest import Run

NAN = float("nan")


class Evil:
    """Runs a program when it is read."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


class Whole(nn.Module):
    """A model that is saved as an object, as Ultralytics does it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def _safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    at, table, body = 0, {}, b""
    for name, tensor in tensors.items():
        data = tensor.numpy().tobytes()
        table[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        at, body = at + len(data), body + data
    head = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def _make(path: Path, kind: str, bad: bool) -> Path:
    model = Whole()
    if bad:
        model.layers[0].weight.data[0] = NAN
    state = model.state_dict()
    if kind == "state":
        torch.save(state, path)
    elif kind == "whole":
        torch.save({"epoch": 7, "best_fitness": 0.5, "model": model.half(), "evil": Evil()}, path)
    elif kind == "lightning":
        scores = {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.25)}}
        torch.save(
            {
                "pytorch-lightning_version": "2.5",
                "epoch": 3,
                "global_step": 40,
                "state_dict": state,
                "callbacks": scores,
            },
            path,
        )
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        _safetensors(path, {name: value for name, value in state.items() if value.dtype == torch.float32})
    elif kind == "dcp":
        import torch.distributed.checkpoint as dcp

        path = path.with_suffix("")
        dcp.save({"model": state}, checkpoint_id=path, no_dist=True)
    return path


KINDS = {"state": "torch", "whole": "torch", "lightning": "lightning", "safetensors": "safetensors", "dcp": "dcp"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_complete_finite_or_said_not_to_be(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = (_make(tmp_path / f"{name}.pt", kind, name == "bad") for name in ("good", "bad"))
    looked = look_at(good)
    assert (looked.kind, looked.finite, looked.problem) == (KINDS[kind], True, "")
    assert "not finite: " in look_at(bad).problem and "weight" in look_at(bad).problem
    assert look_at(bad, deep=False).problem == ""
    for cut in (good / "__0_0.distcp",) if kind == "dcp" else (good,):
        cut.write_bytes(cut.read_bytes()[:-50])
    assert look_at(good).problem, "it was cut off"
    assert "executed" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_what_they_say_of_themselves_is_listed(tmp_path: Path, run: Run) -> None:
    whole, lightning = _make(tmp_path / "whole.pt", "whole", False), _make(tmp_path / "l.ckpt", "lightning", False)
    own = CheckpointStore(tmp_path, run="a").save(5, metric=0.75, extra={"epoch": 2}, **run.parts).path
    told = {path: look_at(path) for path in (whole, lightning, own)}
    assert (told[whole].epoch, told[whole].metric) == (7, 0.5)
    assert (told[lightning].epoch, told[lightning].step, told[lightning].metric) == (3, 40, 0.25)
    assert (told[own].kind, told[own].epoch, told[own].step, told[own].metric) == ("safeloader", 2, 5, 0.75)


@pytest.mark.filterwarnings("ignore")
def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    _make(tmp_path / "below" / "good.pt", "state", False)
    runner = CliRunner()
    assert runner.invoke(main, ["checkpoint", "check", str(tmp_path)]).exit_code == 0
    bad = _make(tmp_path / "bad.pt", "whole", True)
    done = runner.invoke(main, ["checkpoint", "check", str(tmp_path), "--json"])
    rows = json.loads(done.output)
    assert done.exit_code == 1 and {Path(row["path"]).name: row["finite"] for row in rows} == {
        "good.pt": True,
        bad.name: False,
    }
    listed = runner.invoke(main, ["checkpoint", "list", str(tmp_path)])
    assert listed.exit_code == 0 and "bad.pt" in listed.output and "0.5" in listed.output
    (tmp_path / "empty").mkdir()
    assert runner.invoke(main, ["checkpoint", "check", str(tmp_path / "empty")]).exit_code == 1
    (tmp_path / "noise.pt").write_bytes(b"noise" * 100)
    assert look_at(tmp_path / "noise.pt").problem
