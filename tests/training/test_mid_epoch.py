"""A trainer that is killed in the middle of an epoch goes on there, and ends with the weights of an undisturbed run."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from safeloader.training import CheckpointStore
from tests.programs import end, start

KILLED_AFTER = 14


def _start(how: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    return start("-m", "tests.training.mid_epoch", how, str(folder), *more, SAFELOADER_START_METHOD="forkserver")


def _said(running: subprocess.Popen[str], status: int = 0) -> list[str]:
    _, out, err = end(running, 150)
    assert running.returncode == status, out + err
    return [line for line in out.splitlines() if line.startswith(("began", "ended"))]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "how",
    [
        "plain",
        pytest.param("lightning", marks=pytest.mark.slow),
        pytest.param("accelerate", marks=pytest.mark.slow),
    ],
)
def test_a_trainer_killed_in_the_middle_of_an_epoch_goes_on_there_to_the_byte(how: str, tmp_path: Path) -> None:
    if how != "plain" and importlib.util.find_spec(how) is None:
        pytest.skip(f"{how} is not installed")
    undisturbed = _start(how, tmp_path / "undisturbed")
    _said(_start(how, tmp_path / "killed", str(KILLED_AFTER)), status=-9)
    assert len(list((tmp_path / "killed").glob("*.ckpt"))) >= 3
    began, ended = _said(_start(how, tmp_path / "killed"))
    assert began == "began at 12", "the middle of the second epoch of eight batches"
    assert _said(undisturbed) == ["began at 0", ended]


def test_a_loaders_state_in_a_checkpoint_is_plain_and_of_the_batch_that_was_got(tmp_path: Path) -> None:
    from tests.training.mid_epoch import loader

    store = CheckpointStore(tmp_path, run="a")
    with loader() as batches:
        iterator = iter(batches)
        for _ in range(3):
            next(iterator)
        state = store.load(store.save(3, loader=batches)).ranks[0]["loader"]
    assert (state["epoch"], state["batch"], state["over"]) == (0, 3, False)
