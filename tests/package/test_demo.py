"""``safeloader demo``: from the wheel, with nothing but torch; and what it would say if something were wrong."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from safeloader.demo import draw, run, verdict
from safeloader.demo.run import Run
from tests.package.conftest import ROOT

SAME = {"batches": "a" * 64, "weights": "b" * 64, "generators": "c" * 64}


def made_up(title: str, loader: str, **more: object) -> Run:
    run = Run(title, loader, due=4, batches=[0.0, 0.1, 0.2, 0.3], seconds=0.4, ended="finished", digests=dict(SAME))
    for name, value in more.items():
        setattr(run, name, value)
    return run


@pytest.fixture
def runs() -> list[Run]:
    return [
        made_up("torch, undisturbed", "torch"),
        made_up("safeloader", "safeloader", faults="kill:1:1", struck=[(0.05, "kill"), (0.1, "hang"), (0.2, "stop")]),
        made_up(
            "torch, a sample hangs", "torch", faults="hang:1:1", batches=[0.0], struck=[(0.0, "hang")], seconds=8.0,
            ended="stands still: no batch for 8 s <&>", digests={},
        ),
    ]  # fmt: skip


@pytest.mark.timeout(300)
def test_the_demonstration_runs_from_the_wheel(
    outside: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = outside("-m", "safeloader", "demo", "--no-torch", "--html", tmp_path / "demo.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EQUAL those of the undisturbed run, to the byte" in done.stdout.replace("\n", " ")
    assert "60 of 60 batches through 3 faults" in done.stdout
    assert "safeloader, 3 faults: 60 of 60 batches, finished" in done.stdout
    assert "Its report: died, hung, stopped." in done.stdout
    assert "<svg" in (tmp_path / "demo.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_torch_beside_it_ends_or_stands_still() -> None:
    torch = [Run(f, "torch", f"{f}:1:5", stands_still=3.0) for f in ("kill", "hang", "stop")]
    run.watch(torch, lambda *_: None)
    ends = {one.title: one.ended or "" for one in torch}
    assert "DataLoader worker" in ends["kill"]
    assert ends["hang"] == ends["stop"] == "stands still: no batch for 3 s"
    assert all(len(one.struck) == 1 and one.due == 60 and not one.finished for one in torch)


def test_a_program_that_cannot_run_ends_with_its_status(tmp_path: Path) -> None:
    broken = Run("broken", "torch", "no such plan")
    lines: list[str | None] = []
    run.watch([broken], lambda _, line: lines.append(line))
    assert broken.ended == "its program ended with 1"
    assert any("ValueError" in (line or "") for line in lines)


def test_equal_is_said_where_everything_is_equal(runs: list[Run]) -> None:
    assert verdict.equal(*runs[:2])
    assert "EQUAL those" in verdict.sentences(runs)[0]


@pytest.mark.parametrize("part", sorted(SAME))
def test_one_differing_digest_is_named(runs: list[Run], part: str) -> None:
    runs[1].digests[part] = "d" * 64
    assert not verdict.equal(*runs[:2])
    assert verdict.sentences(runs)[0].startswith(f"NOT EQUAL: {part} of")


def test_a_run_with_too_few_batches_is_not_equal(runs: list[Run]) -> None:
    runs[1].batches.pop()
    assert not verdict.equal(*runs[:2])
    assert "NOT SHOWN: safeloader has 3 of 4" in verdict.sentences(runs)[0]


def test_the_picture_has_every_run_fault_and_end(runs: list[Run]) -> None:
    rows = draw.text(runs, width=80).splitlines()
    assert len(rows) == 1 + len(runs)
    assert all(len(row) <= 80 for row in rows)
    assert "KHS" in rows[2].removeprefix("safeloader"), "none hides another"
    assert rows[3].endswith("1/4")
    assert "X" in rows[3]
    assert draw.text(runs, plain=True).isascii()
    tree = ElementTree.fromstring(draw.svg(runs))
    assert sum(element.tag.endswith("circle") for element in tree.iter()) == 4
    assert "&lt;&amp;&gt;" in draw.html(runs, verdict.sentences(runs))


def test_a_run_without_a_batch_can_be_drawn(runs: list[Run]) -> None:
    nothing = Run("never began", "torch", ended="its program ended with 1")
    assert "0/0" in draw.text([*runs, nothing])
    ElementTree.fromstring(draw.svg([nothing]))


def test_the_picture_of_the_readme_is_one_that_the_demonstration_made() -> None:
    tree = ElementTree.parse(ROOT / "docs" / "demo.svg")
    said = " ".join(element.text or "" for element in tree.iter())
    assert "torch, undisturbed: 60 of 60 batches" in said
    assert "safeloader, 3 faults: 60 of 60 batches" in said
    for words in ("a worker killed", "a sample hangs", "a worker stopped"):
        assert f"torch, {words}: " in said
    assert "docs/demo.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
