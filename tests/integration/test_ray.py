"""Ray Train's ``prepare_data_loader`` on safeloader's loaders, with the real package on two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.train.torch")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def _run(name: str, folder: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "integration" / "programs" / name), str(folder)],
        capture_output=True, text=True, timeout=280, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-4000:]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ray")
    _run("ray_train.py", folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_a_loader_keeps_class_policy_name_and_batch_size_with_ray_s_own_sampler(told: Any) -> None:
    for rank in told:
        for kind in ("shuffled", "ours", "not moved", "batch_sampler"):
            facts = rank[kind]
            assert (facts["class"], facts["name"], facts["policy"]) == ("DataLoader", "train", True), kind
            assert [len(row) for row in facts["rows"]] == [4, 4, 4, 4], kind
            assert facts["sampler"] == "DistributedSampler", kind
        assert rank["shuffled"]["rows"] == rank["ours"]["rows"] == rank["plain torch"]["rows"]
        assert rank["batch_sampler"]["rows"] == rank["not moved"]["rows"]
    for kind in ("shuffled", "batch_sampler"):
        assert sorted(i for rank in told for row in rank[kind]["rows"] for i in row) == list(range(32))


def test_an_elastic_sampler_stays_wherever_it_was_given(told: Any) -> None:
    for kind in ("elastic", "elastic batches"):
        assert [rank[kind]["sampler"] for rank in told] == ["ElasticDistributedSampler"] * 2
        assert sorted(i for rank in told for row in rank[kind]["rows"] for i in row) == list(range(32))


def test_a_batch_sampler_of_its_own_is_an_error_not_single_samples(told: Any) -> None:
    assert all("batch_sampler of its own" in rank["own batch_sampler"]["error"] for rank in told)


def test_what_is_prepared_survives_and_goes_on_from_its_state(told: Any) -> None:
    for rank in told:
        assert rank["killed"]["causes"] == {"died": 1}
        assert rank["killed"]["rows"] == rank["elastic"]["rows"]
        assert rank["state"] == {"same": True, "left": 3}


def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_no_sample_comes_twice(tmp_path: Path) -> None:
    _run("ray_checkpoint.py", tmp_path)
    before = [json.loads((tmp_path / f"{rank}-False" / "told.json").read_text()) for rank in range(2)]
    after = json.loads((tmp_path / "0-True" / "told.json").read_text())
    assert [len(rank["rows"]) for rank in before] == [12, 12]
    assert before[0]["causes"] == {"died": 1}  # its worker was killed inside of Ray Train's
    assert sorted([*before[0]["rows"], *before[1]["rows"], *after["rows"]]) == list(range(64))
    assert json.loads((tmp_path / "data.json").read_text()) == [list(range(32))] * 2


def test_the_board_names_the_rank_that_stalls_on_another_node(tmp_path: Path) -> None:
    _run("ray_board.py", tmp_path)
    nodes = {(tmp_path / f"{rank}.json").read_text() for rank in range(2)}
    assert len(nodes) == 2
    told = (tmp_path / "0.told").read_text()
    assert "rank 1 waits for batch 3 of train: worker 0 has worked on sample 13 for " in told
    assert "rank 0 waits in the step" in told
