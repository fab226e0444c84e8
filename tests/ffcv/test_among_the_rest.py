"""The FFCV loader beside the rest of safeloader: bars, reports, indices, SAFELOADER_DISABLE, custom fields, locks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeloader.training import FiniteGuard, NonFiniteError
from tests.ffcv.test_attributes import PLAIN_SLOW, WAYS, at, labels, ops  # noqa: F401 - fixtures
from tests.runtime.harness import environment

Make = Callable[..., Any]
pytestmark = pytest.mark.ffcv


@pytest.fixture
def pairs(compiled_code: Path, tmp_path: Path) -> Path:
    from ffcv.fields import IntField

    from safeloader.ffcv import write
    from tests.ffcv.custom import PairField, Pairs

    write(tmp_path / "pairs.beton", Pairs(), {"pair": PairField(), "label": IntField()}, num_workers=0)
    return tmp_path / "pairs.beton"


@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_custom_fields(at: Make, pairs: Path, way: str) -> None:  # noqa: F811
    """In a file that has nothing but numbers, and so no page of data."""
    from tests.ffcv.custom import PairField

    loader = at(way, path=pairs, batch_size=8, pipelines={}, custom_fields={"pair": PairField})
    got = np.concatenate([batch[0].numpy() for batch in loader])
    assert got.tolist() == [[n, n + 100] for n in range(24)]


@pytest.mark.parametrize("way", WAYS)
def test_the_samples_of_a_nan_are_named_by_their_indices(at: Make, ops: Any, way: str) -> None:  # noqa: F811
    import torch

    loader = at(way, pipelines=labels(ops.NaNAt(77)), order="RANDOM", seed=3)
    expected = list(np.random.default_rng(3).permutation(120))
    guard = FiniteGuard(torch.nn.Linear(1, 1))
    with pytest.raises(NonFiniteError) as caught:
        list(guard.batches(loader))
    assert caught.value.indices == [77]
    last = loader.recent_batches()[-1]
    assert last.batch == expected.index(77) // 40 and last.indices == expected[last.batch * 40 : last.batch * 40 + 40]


@pytest.mark.parametrize("way", ["trainer", "process"])
def test_bars_and_lines(
    at: Make,  # noqa: F811
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAFELOADER_PROGRESS", "1")
    loader = at(way, pipelines=labels())
    list(loader)
    next(iter(loader))
    loader.close()
    told = capsys.readouterr().err
    assert told.count("train, epoch 0 begins: 3 batches") == told.count("train, epoch 1 begins") == 1
    assert told.count("left early") == 1, "the first epoch was not"
    assert "of 3 batches" in told.split("left early")[1]


def test_an_operation_that_cannot_be_sent_runs_in_the_trainer(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    from tests.ffcv.custom import HoldsAGenerator

    loader = make(mode="auto", order="SEQUENTIAL", pipelines=labels(HoldsAGenerator()))
    assert int(next(iter(loader))[0][0]) == 1
    assert loader.report().way.startswith("FFCV in the trainer")
    assert "FFCV runs in the trainer" in caplog.text and "generator" in caplog.text


PROGRAM = """
import sys
from safeloader import Policy
from safeloader.ffcv import Loader
from tests.ffcv.data import centered
pipelines = centered()
loader = Loader(sys.argv[1], 40, 1, order="RANDOM", seed=3, pipelines=pipelines)
for size in (32, 48):
    pipelines["image"][0].output_size = (size, size)
    for images, numbers in loader:
        print(size, tuple(images.shape[2:]), numbers[:3].tolist())
print(loader.report().way)
for batch in loader:
    break
held = iter(loader); next(held)
"""


def test_disabled_it_is_bare_ffcv(beton: Path, tmp_path: Path) -> None:
    """The same samples and sizes; and a loader that is still iterated over at the end ends quietly."""
    told = []
    for disable in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, str(beton)], capture_output=True, text=True, timeout=120,
            env=environment(SAFELOADER_DISABLE=disable), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "__del__" not in done.stderr and "Traceback" not in done.stderr, done.stderr
        told.append(done.stdout.splitlines())
    assert told[0][:-1] == told[1][:-1] and len(told[0]) == 7
    assert (told[0][-1], told[1][-1]) == ("FFCV in a process with 1 worker", "bare FFCV with 1 worker")
