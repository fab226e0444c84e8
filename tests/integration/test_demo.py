"""The demonstration: real photographs, a run that is shot at, and a comparison that can fail."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.demo import chaos, photographs, plot, summary

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> photographs.Collection:
    return photographs.prepare(tmp_path_factory.mktemp("photographs"))


def made_up_run(**changes: Any) -> dict[str, Any]:
    rows = [
        {"at": 0.1 * n, "waited": 0.01, "epoch": 1, "phase": "train" if n < 6 else "val", "batch": n}
        for n in range(1, 9)
    ]
    run: dict[str, Any] = {
        "outcome": "finished",
        "seconds": 0.9,
        "due": 8,
        "batches": rows,
        "struck": [{"kind": kind, "at": 0.2} for kind in ("kill", "stop", "hang")],
        "reports": {"train": {"faults": [{"cause": "died"}], "restarts": 1, "fallbacks": 0}},
        "digests": {"weights": "a" * 64, "batches": "b" * 64, "generators": "c" * 64},
    }
    return copy.deepcopy(run | changes)


def test_a_few_hundred_photographs_are_cut_from_installed_packages(
    collection: photographs.Collection,
) -> None:
    assert collection.train >= 300
    assert collection.val >= 100
    for path in sorted(collection.folder.glob("*/*.jpg"))[::50]:
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (photographs.SIZE, photographs.SIZE))


def test_photographs_are_cut_once(collection: photographs.Collection) -> None:
    before = {path: path.stat().st_mtime_ns for path in collection.folder.glob("*/*.jpg")}
    assert photographs.prepare(collection.folder) == collection
    assert {path: path.stat().st_mtime_ns for path in collection.folder.glob("*/*.jpg")} == before


def test_the_plan_holds_every_kind_of_fault_in_both_phases() -> None:
    assert {strike.kind for strike in chaos.PLAN} == {"kill", "stop", "hang"}
    assert {strike.phase for strike in chaos.PLAN} == {"train", "val"}
    assert any(strike.batch == 0 for strike in chaos.PLAN)


@pytest.mark.parametrize("digest", ["weights", "batches", "generators"])
def test_one_differing_digest_is_called_unequal(digest: str) -> None:
    whole, other = made_up_run(), made_up_run()
    assert summary.equal(whole, other)
    other["digests"][digest] = "d" * 64
    assert not summary.equal(whole, other)
    assert any(digest in line and "NOT EQUAL" in line for line in summary.sentences(whole, other, whole))


def test_a_run_that_did_not_finish_is_not_equal() -> None:
    hung = made_up_run(outcome="hang: no end within 300 s", batches=[], struck=[], reports={}, digests={})
    assert not summary.equal(made_up_run(), hung)
    assert any("did not finish" in line for line in summary.sentences(made_up_run(), hung, hung))


def test_the_plot_is_drawn_also_from_runs_that_ended_early(tmp_path: Path) -> None:
    early = made_up_run(outcome="RuntimeError: dead", batches=[], struck=[])
    plot.draw(tmp_path / "plot.png", made_up_run(), made_up_run(), early, 3.0)
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 1000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_run_under_fire_ends_with_the_weights_of_an_undisturbed_one(
    collection: photographs.Collection, tmp_path: Path
) -> None:
    runs = []
    for loader, extra in (("torch", []), ("safeloader", ["--chaos"])):
        command = [sys.executable, "-m", "benchmarks.demo.train", "--loader", loader, *extra]
        command += ["--photographs", str(collection.folder), "--json", str(tmp_path / loader)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=140)
        runs.append(json.loads((tmp_path / loader).read_text(encoding="utf-8")))
    assert len(runs[1]["struck"]) == len(chaos.PLAN)
    assert summary.equal(*runs)
