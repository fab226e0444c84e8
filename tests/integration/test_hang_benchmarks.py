"""The hang benchmarks run through their entry point, and their verdicts are facts that can be checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hangs.facts import Fact
from benchmarks.hangs.judge import Ending, expect, judge
from benchmarks.hangs.scenario import Scenario, load, names

ROOT = Path(__file__).resolve().parents[2]


def run_benchmark(directory: Path, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """All records of one run of the entry point, by scenario and loader."""
    path = directory / "out.json"
    command = [sys.executable, "-m", "benchmarks.hangs", "--json", str(path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads(path.read_text())
    return {(row["scenario"], row["loader"]): row for row in whole["records"]}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_killed_worker_ends_torchs_run_and_not_safeloaders(tmp_path: Path) -> None:
    rows = run_benchmark(tmp_path, "--only", "undisturbed,sigkill", "--loaders", "torch,safeloader", "--jobs", "2")
    control = rows["undisturbed", "torch"]
    assert (control["outcome"], control["delivered"], control["equal"], control["left"]) == ("finished", 8, True, 0)
    lost = rows["sigkill", "torch"]
    assert lost["outcome"] == "error"
    assert lost["delivered"] < lost["due"]
    for name in ("undisturbed", "sigkill"):
        ours = rows[name, "safeloader"]
        assert ours["complaint"] == ""
        assert (ours["outcome"], ours["delivered"], ours["equal"], ours["left"]) == ("finished", 8, True, 0)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_stop_iteration_out_of_a_sample_shortens_torchs_epoch_and_is_an_error_in_ours(tmp_path: Path) -> None:
    rows = run_benchmark(tmp_path, "--only", "stop_iteration", "--loaders", "torch,safeloader")
    silent = rows["stop_iteration", "torch"]
    assert (silent["outcome"], silent["error"]) == ("truncated", "")
    assert silent["delivered"] < silent["due"]
    assert rows["stop_iteration", "safeloader"]["outcome"] == "error"
    assert "StopIteration" in rows["stop_iteration", "safeloader"]["error_text"]


def test_a_scenario_that_does_not_exist_is_named_and_the_others_are_listed() -> None:
    command = [sys.executable, "-m", "benchmarks.hangs", "--only", "sigkil"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no scenario 'sigkil'" in done.stderr
    assert "sigkill" in done.stderr


def test_every_file_of_the_scenarios_holds_a_scenario_and_its_reference_exists() -> None:
    for name in names():
        assert load(name).reference in (None, "own", *names())


SCENARIO = Scenario(row="-", title="two batches", batches=2)


def facts(*kinds: str) -> list[Fact]:
    """Facts of one process, one second apart; a batch's digest is its number."""
    made = []
    for number, kind in enumerate(kinds):
        details = {"digest": str(number), "type": "ValueError", "message": "broken\npicture", "reason": "no"}
        made.append(Fact(float(number), 1, kind, details))
    return made


@pytest.mark.parametrize(
    ("kinds", "code", "reference", "outcome"),
    [
        (("start", "batch", "batch", "end"), 0, ["1", "2"], "finished"),
        (("start", "batch", "batch", "end"), 0, ["1", "3"], "wrong"),
        (("start", "batch", "end"), 0, ["1", "2"], "truncated"),
        (("start", "batch", "error"), 1, ["1", "2"], "error"),
        (("start", "batch", "batch"), -11, ["1", "2"], "error"),
        (("start", "batch"), None, ["1", "2"], "hang"),
        (("start", "batch", "batch", "end"), None, ["1", "2"], "hang"),
        (("start", "skip", "end"), 0, None, "skipped"),
    ],
)
def test_the_outcome_follows_from_the_facts(
    kinds: tuple[str, ...], code: int | None, reference: list[str] | None, outcome: str
) -> None:
    record = judge("two", SCENARIO, "torch", facts(*kinds), Ending(code, 10.0, 0), reference)
    assert record.outcome == outcome


def test_waits_are_counted_from_the_fault() -> None:
    record = judge(
        "two", SCENARIO, "torch", facts("start", "batch", "fault", "fault", "batch", "end"), Ending(0, 10.0, 0), None
    )
    assert (record.next_batch, record.longest_wait) == (2.0, 2.0)


def test_processes_left_behind_or_an_unnamed_sample_are_complaints() -> None:
    wanted = Scenario(row="-", title="names the sample", batches=2, expect=("error",), says=r"\b18\b")
    record = judge("two", wanted, "safeloader", facts("start", "batch", "error"), Ending(1, 10.0, 2), None)
    expect(record, wanted, 0.0)
    assert record.as_expected is False
    assert "2 processes left behind" in record.complaint
    assert "18" in record.complaint


def test_facts_of_other_processes_are_not_the_trainers() -> None:
    noted = [
        *facts("start", "batch"),
        Fact(2.5, 2, "error", {"type": "X", "message": ""}),
        *facts("x", "x", "x", "batch", "end")[3:],
    ]
    record = judge("two", SCENARIO, "torch", noted, Ending(0, 10.0, 0), None)
    assert (record.outcome, record.delivered, record.error) == ("finished", 2, "")
