"""A rank is killed in the middle of an epoch, torchrun starts the group again: each sample of each epoch counts once."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader.training import CheckpointStore
from tests.programs import ROOT, kill, run, run_torchrun, start_torchrun

PROGRAM = str(ROOT / "tests" / "integration" / "programs" / "elastic_killed.py")
SAMPLES, EPOCHS, BATCH = 96, 2, 8


def _run(folder: Path, ranks: int, kills: str, restarts: int = 0, fails: bool = False) -> None:
    code, out, err = run_torchrun("--max-restarts", str(restarts), PROGRAM, str(folder), kills, ranks=ranks)
    assert (code != 0) == fails, out + err


def _starts(folder: Path) -> list[list[dict[str, Any]]]:
    """What each start of the group used, oldest first."""
    starts: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for file in folder.glob("used.*.jsonl"):
        for line in file.read_text().splitlines():
            used = json.loads(line)
            starts.setdefault((used["run"], used["start"]), []).append(used)
    return [starts[key] for key in sorted(starts)]


def _count(starts: list[list[dict[str, Any]]]) -> list[Counter[int]]:
    """Of each epoch, how often each sample is in the weights at the end: what came after the checkpoint that the next
    start went on from is not."""
    counted = [Counter[int]() for _ in range(EPOCHS)]
    for number, used in enumerate(starts):
        later = min((line["step"] for line in starts[number + 1]), default=None) if number + 1 < len(starts) else None
        for line in used:
            if later is None or line["step"] < later:
                counted[line["epoch"]].update(line["samples"])
    return counted


def _assert_each_once(folder: Path, starts: int) -> list[list[dict[str, Any]]]:
    noted = _starts(folder)
    assert len(noted) == starts
    assert _count(noted) == [Counter(range(SAMPLES))] * EPOCHS
    assert max(line["step"] for line in noted[-1]) == EPOCHS * SAMPLES // BATCH
    return noted


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    store = CheckpointStore(folder / "checkpoints", run="elastic")
    newest = store.latest_good()
    assert newest is not None
    weights: dict[str, torch.Tensor] = store.load(newest).parts["model"]
    return weights


@pytest.mark.timeout(300)
def test_a_killed_rank_costs_no_sample_and_repeats_none(tmp_path: Path) -> None:
    _run(tmp_path, 2, "0:1:7", restarts=1)
    first, second = _assert_each_once(tmp_path, 2)
    assert {line["step"] for line in first} >= set(range(1, 8))
    assert min(line["step"] for line in second) == 6, "from the checkpoint at step 5, in the middle of the epoch"
    assert {line["rank"] for line in second} == {0, 1}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_again_and_gone_on_with_more_and_fewer_ranks_the_weights_are_those_of_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    for folder in (disturbed, calm):
        folder.mkdir()
    _run(calm, 2, "")
    _run(disturbed, 2, "0:1:7,1:0:12", restarts=1, fails=True)
    _run(disturbed, 4, "0:3:16", fails=True)
    _run(disturbed, 1, "")
    noted = _assert_each_once(disturbed, 4)
    assert [min(line["step"] for line in used) for used in noted] == [1, 6, 11, 16]
    assert [{line["world"] for line in used} for used in noted] == [{2}, {2}, {4}, {1}]
    for one, other in zip(_weights(disturbed).values(), _weights(calm).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # other ranks sum gradients in another order


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_host_that_is_lost_leaves_the_others_to_go_on(tmp_path: Path) -> None:
    """``--nnodes=1:2``: two agents; one is killed with its rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [
        "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", "two",
        "--rdzv-endpoint", f"127.0.0.1:{port}",
        "--local-addr", "127.0.0.1",
    ]  # fmt: skip
    patience = "last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=2"
    stays = start_torchrun(*options, "--rdzv-conf", f"{patience},is_host=1", PROGRAM, str(tmp_path), "")
    leaves = start_torchrun(
        *options, "--rdzv-conf", f"{patience},is_host=0", PROGRAM, str(tmp_path), "0:1:7:host,0:0:7:host"
    )
    try:
        out, err = stays.communicate(timeout=300)
        assert stays.returncode == 0, out + err
    finally:
        for agent in (stays, leaves):
            kill(agent)
            agent.communicate()
    first, second = _assert_each_once(tmp_path, 2)
    assert {line["world"] for line in first} == {2}
    assert {line["world"] for line in second} == {1}


def test_the_example_is_what_the_guide_shows() -> None:
    example = (ROOT / "docs" / "examples" / "elastic.py").read_text()
    assert example in (ROOT / "docs" / "distributed.md").read_text()


def test_the_example_says_how_it_is_called() -> None:
    done = run(str(ROOT / "docs" / "examples" / "elastic.py"), "--help")
    assert "steps from one checkpoint to the next" in done.out, done.err
