"""Two ranks over gloo, in processes of their own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safeloader import SettingsError
from tests.programs import end, environment, kill, start

pytestmark = pytest.mark.timeout(280)  # interpreters that import torch and FFCV, two at a time


def ranks(beton: Path, case: str) -> list[dict[str, Any]]:
    """What two ranks tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        start("-m", "tests.ffcv.rank", str(beton), case, RANK=str(n), LOCAL_RANK=str(n), **where) for n in range(2)
    ]
    try:
        ended = [end(process, 250) for process in running]
    finally:
        for process in running:
            kill(process)
    told = [json.loads(one.out.strip().splitlines()[-1]) for one in ended]
    return sorted(told, key=lambda rank: int(rank["rank"]))


def test_ranks_share_the_samples_and_change_size_in_step(beton: Path) -> None:
    told = ranks(beton, "fine")
    assert [rank.get("error") for rank in told] == [None, None]
    assert [rank["batches"] for rank in told] == [6, 6]
    for epoch, size in enumerate([24, 40]):
        shares = [[label for labels, _ in rank["epochs"][epoch] for label in labels] for rank in told]
        assert sorted(shares[0] + shares[1]) == list(range(120))
        assert {s for rank in told for _, s in rank["epochs"][epoch]} == {size}


@pytest.mark.slow
def test_different_seeds_are_refused(beton: Path) -> None:
    for rank in ranks(beton, "seeds"):
        assert "RanksDisagreeError" in rank["error"] and "seed: rank 1 has 6; the others have 5" in rank["error"]


@pytest.mark.slow
def test_different_sizes_are_refused(beton: Path) -> None:
    for rank in ranks(beton, "sizes"):
        assert "RanksDisagreeError" in rank["error"] and "rank 1 has" in rank["error"]


@pytest.mark.slow
def test_an_absent_rank_is_named(beton: Path) -> None:
    waiting, _ = ranks(beton, "absent")
    assert "rank 1 did not come to the data of train within 3 s" in waiting["error"]


@pytest.mark.slow
def test_under_torchrun(beton: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone",
         "-m", "tests.ffcv.rank", str(beton), "fine"],
        capture_output=True, text=True, timeout=250, check=True, env=environment(),
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [rank.get("error") for rank in told] == [None, None]
    for epoch, size in enumerate([24, 40]):
        assert sorted(label for rank in told for labels, _ in rank["epochs"][epoch] for label in labels) == list(
            range(120)
        )
        assert [s for rank in told for _, s in rank["epochs"][epoch]] == [size] * 12


@pytest.mark.slow
def test_a_schedule_that_changes_its_mind_on_one_rank_is_refused_before_the_epoch(beton: Path) -> None:
    for rank in ranks(beton, "drift"):
        assert [sizes for _, sizes in rank["epochs"][0]] == [24] * 6
        assert "ranks disagree about the image size of train: size: rank 1 has 32; the others have 40" in rank["error"]


@pytest.mark.ffcv
def test_quasi_random_order_is_refused(make: Any) -> None:
    from safeloader.ffcv.arguments import order_kind

    with pytest.raises(SettingsError, match="no QUASI_RANDOM order for distributed"):
        order_kind("QUASI_RANDOM", distributed=True)
