"""The incidents' programs do what the table says."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks.incidents.__main__ import INCIDENTS
from benchmarks.incidents.watching import ROOT, run


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in INCIDENTS if name != "ffcv_ranks"])
def test_an_incident_is_as_claimed_without_and_with_safeloader(name: str) -> None:
    rows = importlib.import_module(f"benchmarks.incidents.{name}").measure()
    assert [row.side for row in rows] == ["without", "with"]
    for row in rows:
        assert row.as_claimed, row
    assert rows[1].finished
    assert rows[0].noticed == "never"


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_the_ffcv_recipe_learns_and_each_mistake_in_it_shows() -> None:
    if importlib.util.find_spec("ffcv") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("FFCV is not installed: run make ffcv")
    rows = importlib.import_module("benchmarks.incidents.ffcv_ranks").measure()
    assert [row.side for row in rows] == ["without"] * 5 + ["with"] * 2
    for row in rows:
        assert row.as_claimed and row.finished, row


@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_bisect_names_validation_beside_more_than_one_process_as_the_cause_of_the_hang_in_epoch_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safeloader", "bisect", "--json", "--cap", "40", "--no-validation", "SKIP_VALIDATION=1",
         "-m", "benchmarks.incidents.epoch_two", "--without"],
        cwd=ROOT, capture_output=True, text=True, timeout=1100, check=False,
        env={**os.environ, "SAFELOADER_MAX_RESTARTS": "1", "SAFELOADER_BAD_SAMPLE_ATTEMPTS": "6"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    ends: dict[str, set[str]] = {}
    for seen in json.loads(done.stdout)["runs"]:
        ends.setdefault(seen["outcome"], set()).add(seen["label"])
    assert ends == {
        "hung": {"as it is", "torch, not persistent", "torch, 2 workers", "torch, forkserver"},
        "finished": {"torch, no validation", "torch, 1 worker", "torch, 0 workers", "safeloader"},
    }


def test_a_program_that_fails_is_noted_with_its_status() -> None:
    seen = run("no_such_incident", "with", patience=60)
    assert seen.ended
    assert seen.status == 1
    assert seen.first("No module named benchmarks.incidents.no_such_incident") is not None
    with pytest.raises(LookupError, match=r"(?s)ended with status 1, and said:.*No module named"):
        seen.fact("accuracy")
