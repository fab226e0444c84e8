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
import sys
import torch.utils.data
from litdata import StreamingDataLoader, StreamingDataset, optimize

def row(index):
    return torch.tensor([index, index * index])

def epochs(make):
    loader = make()
    given = [batch.tolist() for batch in loader]
    first = iter(loader)
    given += [next(first).tolist() for _ in range(4)]
    state = loader.state_dict()
    again = make()
    again.load_state_dict(state)
    return given + [batch.tolist() for batch in again]

if __name__ == "__main__":
    optimize(row, list(range(96)), sys.argv[1], chunk_size=8, num_workers=1)
    make = lambda: StreamingDataLoader(StreamingDataset(sys.argv[1], shuffle=True), batch_size=4, num_workers=3)
    expected = epochs(make)
    import safeloader
    from safeloader import unprotected
    safeloader.patch()
    got = epochs(make)
    profiled = StreamingDataLoader(StreamingDataset(sys.argv[1]), num_workers=1, profile_cprofile=True)
    quiet = unprotected.report() == ""
    len(list(profiled))
    print("found:", len(got), got == expected, quiet, "StreamingDataLoader" in unprotected.report())
"""


def test_litdata_s_loader_is_taken_over_also_where_it_goes_on_from_its_state(tmp_path: Path) -> None:
    pytest.importorskip("litdata")
    script = tmp_path / "program.py"
    script.write_text(LITDATA)
    said = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "rows")],
        capture_output=True, text=True, timeout=380, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert "found: 48 True True True" in said.stdout, said.stdout + said.stderr[-3000:]
