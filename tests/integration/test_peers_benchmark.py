"""The benchmark of peers: what it says of a run, and that its adapters load what torch loads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peers import __main__ as peers
from benchmarks.peers import data
from benchmarks.peers.adapters import IN_PROCESS, PEERS
from benchmarks.peers.job import Job

WHOLE = ["a", "b", "c"]


def _ran(digests: str, status: int | None = 0, over: bool = True) -> peers.Ran:
    told: list[dict[str, Any]] = [{"digest": digest, "at": 2.0 * at} for at, digest in enumerate(digests)]
    return peers.Ran([*told, *([{"over": True}] if over else [])], status, "")


@pytest.mark.parametrize(
    ("ran", "verdict"),
    [
        (_ran("abc"), "**3, bytes equal**, 2.0 s"),
        (_ran("acb"), "3, in another order, 2.0 s"),
        (_ran("ab"), "ends as if whole, 2"),
        (_ran("abd"), "3, other bytes"),
        (_ran("ab", 1, over=False), "error, 2"),
        (_ran("ab", None, over=False), "hangs, 2"),
        (_ran("", None, over=False), "hangs, 0"),
    ],
)
def test_what_is_said_of_a_run(ran: peers.Ran, verdict: str) -> None:
    assert peers._verdict(ran, WHOLE) == verdict


def test_a_part_that_is_not_measured_again_stays_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    heads = peers._FAULTS.format(at=1, due=2, cap=3), peers._SPEEDS.format(rounds=3)

    def measured(number: int, cell: str) -> str:
        part = peers._part(heads[number], lambda: [f"| {cell} |"])
        page.write_text("\n".join([peers._HEAD, *peers._with_others({number: part}, page)]))
        return page.read_text()

    assert "speeds, first" in measured(1, "speeds, first")
    assert "speeds, first" in measured(0, "faults")
    last = measured(1, "speeds, again")
    assert "first" not in last.replace("first word", "")
    assert last.index("| faults |") < last.index("| speeds, again |")
    assert last.count("\n## ") == last.count("Cores ") == 2


@pytest.mark.parametrize("kind", data.WORKLOADS)
def test_batches_of_threads_are_those_of_torch(kind: str) -> None:
    job = Job(data.Samples(kind, 8), data.collate_of(kind), 4)
    assert str([*PEERS["2 threads"](job)]) == str([*PEERS["torch, no workers"](job)])


def _whole() -> list[str]:
    job = Job(data.Struck("", ""), torch.stack, 4)
    batches = (job(number) for number in range(job.batches))
    return [hashlib.blake2b(batch.numpy().tobytes(), digest_size=8).hexdigest() for batch in batches]


def test_torch_ends_with_an_error_and_safeloader_finishes() -> None:
    ran = peers.run(["torch, spawn", "fault", "SIGKILL", "FOLDER"], 60)
    assert peers._verdict(ran, _whole()).startswith("error"), ran
    ran = peers.run(["safeloader", "fault", "SIGKILL", "FOLDER"], 60)
    assert peers._verdict(ran, _whole()).startswith("**60, bytes equal**"), ran


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PEERS if name not in IN_PROCESS])
def test_without_a_fault_each_peer_that_is_here_loads_the_same(name: str) -> None:
    ran = peers.run([name, "fault", "", "FOLDER"], 100)
    if "ModuleNotFoundError" in ran.last:
        pytest.skip(ran.last)
    assert peers._verdict(ran, _whole()).startswith(("**60, bytes equal**", "60, in another order")), ran
