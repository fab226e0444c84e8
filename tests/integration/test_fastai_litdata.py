"""fastai, which makes torch's iterator itself, and litdata, which derives from it: the real packages, where installed."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import safeloader
from safeloader import unprotected
from tests.integration.killing import Killing

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("forked"), pytest.mark.timeout(400)]


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(unprotected, "_kinds", {})
    monkeypatch.setattr(unprotected, "_counts", {})
    yield
    safeloader.unpatch()


@pytest.mark.usefixtures("clean")
def test_fastai_trains_through_a_killed_worker_to_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("fastai.callback.progress")
    from fastai.data.core import DataLoaders, TfmdDL
    from fastai.learner import Learner

    def fit(bad: int | None) -> list[torch.Tensor]:
        random.seed(0)
        torch.manual_seed(0)
        train = TfmdDL(Killing(tmp_path, bad), bs=4, shuffle=True, num_workers=2)
        valid = TfmdDL(Killing(tmp_path, None), bs=4, num_workers=2)
        model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
        learner = Learner(DataLoaders(train, valid), model, loss_func=torch.nn.functional.mse_loss, path=tmp_path)
        with learner.no_bar(), learner.no_logging():
            learner.fit(2, lr=1e-6)
        return [parameter.detach().clone() for parameter in model.parameters()]

    expected = fit(None)
    safeloader.patch()
    with caplog.at_level(logging.WARNING, "safeloader"):
        weights = fit(13)
    assert Killing(tmp_path).killed
    assert "was killed by SIGKILL" in caplog.text
    assert unprotected.report() == ""
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))


LITDATA = """
import os, signal, sys
import safeloader
safeloader.patch()
import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize
from torch.utils.data import DataLoader
from safeloader import unprotected

def row(index):
    return torch.tensor([index, index * index])

if __name__ == "__main__":
    optimize(row, list(range(64)), sys.argv[1], chunk_size=16, num_workers=1)
    theirs = [batch.tolist() for batch in StreamingDataLoader(StreamingDataset(sys.argv[1]), batch_size=4, num_workers=2)]
    loader = DataLoader(StreamingDataset(sys.argv[1]), batch_size=4, num_workers=2)
    batches = iter(loader)
    ours = [next(batches).tolist()]
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    ours += [batch.tolist() for batch in batches]
    named = "StreamingDataLoader over StreamingDataset, 2 workers (1 times)" in unprotected.report()
    print("found:", len(ours), ours == theirs, loader.report().causes, named)
"""


def test_litdata_s_loader_is_named_and_its_dataset_survives_in_torch_s(tmp_path: Path) -> None:
    pytest.importorskip("litdata")
    script = tmp_path / "program.py"
    script.write_text(LITDATA)
    said = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "rows")],
        capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    assert "found: 16 True {'died': 1} True" in said.stdout, said.stderr[-3000:]
