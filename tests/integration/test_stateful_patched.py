"""Programs that use torchdata's own names, unedited, while torch is patched."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import safeloader
from safeloader import DataLoader, unprotected
from tests.integration.killing import Killing

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("forked")]
THEIRS = stateful.StatefulDataLoader
"""The name as a program has it that imported it before the patch."""


@pytest.fixture(autouse=True)
def theirs_again() -> Iterator[None]:
    """It is made before `patched`, so it looks after that is over."""
    yield
    assert stateful.StatefulDataLoader is THEIRS
    assert type(THEIRS(range(3))) is THEIRS


def _sums(batches: Any) -> list[float]:
    return [float(batch[1].sum()) for batch in batches]


def _run(folder: Path, bad: int | None, workers: int, **more: Any) -> tuple[Any, list[list[float]]]:
    """Before a state, the rest, the next epoch; then another loader from the state, and its next epoch."""
    torch.manual_seed(0)
    context = "forkserver" if workers else None
    first = THEIRS(Killing(folder, bad), 4, shuffle=True, num_workers=workers, multiprocessing_context=context, **more)
    batches = iter(first)
    before = [next(batches) for _ in range(3)]
    state = first.state_dict()
    seen = [_sums(before), _sums(batches), _sums(first)]
    again = THEIRS(Killing(folder, None), 4, shuffle=True, num_workers=workers, multiprocessing_context=context, **more)
    again.load_state_dict(state)
    return first, [*seen, _sums(again), _sums(again)]


@pytest.mark.parametrize(
    ("workers", "more"),
    [(0, {}), pytest.param(2, {}), pytest.param(2, {"snapshot_every_n_steps": 3}, marks=pytest.mark.slow)],
)
def test_a_stateful_loader_survives_with_torchdata_s_batches_and_goes_on(
    workers: int, more: dict[str, Any], tmp_path: Path
) -> None:
    _, expected = _run(tmp_path, None, workers, **more)
    safeloader.patch()
    try:
        loader, seen = _run(tmp_path, 13, workers, **more)
        assert isinstance(loader, DataLoader)
        assert isinstance(loader, THEIRS)
        assert isinstance(loader, stateful.StatefulDataLoader)
    finally:
        safeloader.unpatch()
    assert seen[:3] == expected[:3]
    assert seen[3:] == seen[1:3], "the rest and the next epoch, from the state"
    assert loader.snapshot_every_n_steps == more.get("snapshot_every_n_steps", 1)
    assert loader.report().causes == ({"died": 1} if workers else {})


@pytest.mark.usefixtures("patched")
def test_a_state_of_torchdata_s_own_is_refused_in_words() -> None:
    safeloader.unpatch()
    theirs = THEIRS(range(8), 2)
    next(iter(theirs))
    state = theirs.state_dict()
    safeloader.patch()
    with pytest.raises(safeloader.StateError):
        THEIRS(range(8), 2).load_state_dict(state)


AFTER_PATCH = """
import safeloader
safeloader.patch()
import pickle, copy
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.stateful_dataloader import StatefulDataLoader as Inner
loader = StatefulDataLoader(list(range(8)), 2, shuffle=True)
assert StatefulDataLoader is Inner and isinstance(loader, safeloader.DataLoader), type(loader).__mro__
first = iter(loader)
next(first)
state, rest = loader.state_dict(), [batch.tolist() for batch in first]
again = pickle.loads(pickle.dumps(loader))
again.load_state_dict(state)
assert [batch.tolist() for batch in again] == rest and len(rest) == 3
print("well")
"""


def test_it_may_be_imported_after_the_patch() -> None:
    said = subprocess.run([sys.executable, "-c", AFTER_PATCH], capture_output=True, text=True, timeout=100, check=False)
    assert said.stdout == "well\n", said.stderr


@pytest.mark.usefixtures("patched")
def test_accelerate_s_stateful_loaders_survive_and_go_on(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    from accelerate.utils import DataLoaderConfiguration

    def prepared(bad: int | None) -> Any:
        torch.manual_seed(0)
        accelerate.state.AcceleratorState._reset_state()
        accelerate.state.GradientState._reset_state()
        wanted = DataLoaderConfiguration(use_stateful_dataloader=True)
        accelerator = accelerate.Accelerator(cpu=True, dataloader_config=wanted)
        loader = torch.utils.data.DataLoader(Killing(tmp_path, bad), 4, shuffle=True, num_workers=2)
        return accelerator, accelerator.prepare(loader)

    accelerator, loader = prepared(13)
    batches = iter(loader)
    next(batches)
    accelerator.save_state(str(tmp_path / "saved"))
    rest = _sums(batches)
    assert isinstance(loader.base_dataloader, THEIRS)
    assert loader.report().causes == {"died": 1}
    accelerator, again = prepared(None)
    accelerator.load_state(str(tmp_path / "saved"))
    assert _sums(again) == rest
    assert len(rest) == 7


@pytest.mark.usefixtures("patched")
def test_nodes_with_processes_of_their_own_are_named(caplog: pytest.LogCaptureFixture) -> None:
    nodes = pytest.importorskip("torchdata.nodes")
    with caplog.at_level(logging.WARNING, "safeloader"):
        for method in ("thread", "process"):
            mapper = nodes.ParallelMapper(
                nodes.IterableWrapper(range(6)), abs, num_workers=1, method=method, multiprocessing_context="spawn"
            )
            assert list(nodes.Loader(mapper)) == list(range(6))
    assert caplog.text.count("NOT protected") == 1
    assert "torchdata.nodes.ParallelMapper with 1 processes (1 times)" in unprotected.report()
