"""A loader's state in ``torch.distributed.checkpoint``: one, two, and another number of ranks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from safeloader import DataLoader, StateError
from safeloader.resume import distributed_checkpoint
from tests.programs import end, start

PROGRAM = Path(__file__).with_name("checkpointed.py")
pytestmark = pytest.mark.filterwarnings("default")  # of torch's own making


def _ranks(folder: Path, world: int, style: str, deed: str) -> list[Any]:
    running = [start(str(PROGRAM), str(folder), str(rank), str(world), style, deed) for rank in range(world)]
    for process in running:
        code, _, said = end(process, 200)
        assert code == 0, said[-3000:]
    name = {"save": "saved", "load": "loaded"}[deed]
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize(
    ("style", "saving", "loading"),
    [
        ("loader", 1, 1),
        ("app", 1, 1),
        ("loader", 2, 2),
        ("loader", 2, 1),
        pytest.param("titan", 2, 2, marks=pytest.mark.slow),
        pytest.param("app", 2, 2, marks=pytest.mark.slow),
        pytest.param("app", 2, 3, marks=pytest.mark.slow),
        pytest.param("loader", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_ranks_go_on_from_what_ranks_have_saved(style: str, saving: int, loading: int, tmp_path: Path) -> None:
    saved = _ranks(tmp_path, saving, style, "save")
    for before, rest, again in saved:
        assert rest == again
        assert len(before) == 3
    seen = [index for before, _, _ in saved for batch in before for index in batch]
    loaded = _ranks(tmp_path, loading, style, "load")
    assert all(step == (3 if style == "app" else 0) for _, step in loaded)
    if saving == loading:
        assert [rest for rest, _ in loaded] == [rest for _, rest, _ in saved]
    left = [index for rest, _ in loaded for batch in rest for index in batch]
    assert set(seen) | set(left) == set(range(48))
    assert len(seen) + len(left) - 48 < loading, "what pads the last batches"


# ---------------------------------------------------------------- one process


def make(**options: Any) -> DataLoader[Any]:
    return DataLoader(torch.arange(12), **{"batch_size": 2, "shuffle": True, **options})


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, list[Any]]:
    torch.manual_seed(1)
    loader = make()
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"loader": loader}, checkpoint_id=tmp_path / "saved")
    return tmp_path / "saved", [batch.tolist() for batch in batches]


def _load(loader: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load({"loader": loader}, checkpoint_id=folder)


def test_a_state_of_any_moment_is_loaded_at_any_moment(saved: tuple[Path, list[Any]]) -> None:
    folder, rest = saved
    fresh, begun, over = make(), make(), make()
    next(iter(begun))
    list(over)
    for loader in (fresh, begun, over):
        _load(loader, folder)
        assert [batch.tolist() for batch in loader] == rest


def test_other_callers_are_given_plain_words(saved: tuple[Path, list[Any]]) -> None:
    assert "rank 0 of 1" not in make().state_dict()
    json.dumps(make().state_dict())


def test_what_does_not_fit_is_refused_and_nothing_has_changed(saved: tuple[Path, list[Any]]) -> None:
    folder, rest = saved
    loader = make()
    _load(loader, folder)
    with pytest.raises(StateError, match=r"of another loader: .*batch_size"):
        _load(make(batch_size=3), folder)
    state = loader.state_dict()
    leaf = distributed_checkpoint.leaf(state)
    name, data = next(iter(leaf.items()))
    damaged = {
        "cut": data[:-20],
        "changed": data[:-20] + b"?" * 20,
        "not loaded": b"",
        "foreign": b"x" * 90,
        "none": None,
    }
    for how, value in damaged.items():
        with pytest.raises(StateError, match="was not loaded" if how in ("not loaded", "none") else "is damaged"):
            loader.load_state_dict({name: value})
    assert loader.state_dict() == state
    assert [batch.tolist() for batch in loader] == rest


def test_what_a_dataset_says_of_itself_comes_back_as_it_was() -> None:
    state = {"a": (1, 2), "b": {3: torch.arange(2)}, "c": {"d": [1.5, None, "x"]}}
    found = distributed_checkpoint.unleaf(distributed_checkpoint.leaf(state))
    assert found["a"] == (1, 2)
    assert torch.equal(found["b"][3], torch.arange(2))
    assert found["c"] == state["c"]
