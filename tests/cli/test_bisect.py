"""Which setting hangs: the matrix, real runs of a script that hangs, and the verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from safeloader.bisecting.matrix import (
    ScriptLoaders,
    Setting,
    everything,
    one_at_a_time,
    validation_switches,
)
from safeloader.bisecting.program import VARIABLE
from safeloader.bisecting.verdict import verdict
from safeloader.bisecting.watch import Run, Runner

SCRIPT = Path(__file__).parent / "programs" / "hangs.py"


def run(
    outcome: Any, batches: int = 8, detail: str = "", seconds: float = 10.0, passes: int = 1, **setting: Any
) -> Run:
    return Run(Setting(**setting), outcome, seconds, batches, passes, detail, "", ScriptLoaders())


def test_the_settings_are_those_of_the_incident_one_at_a_time() -> None:
    labels = [setting.label for setting in one_at_a_time(ScriptLoaders(4, True, "fork"), True)]
    assert labels == [
        "torch, no validation", "torch, not persistent", "torch, 2 workers", "torch, 1 worker", "torch, 0 workers",
        "torch, spawn", "torch, forkserver", "safeloader",
    ]  # fmt: skip
    assert [s.label for s in one_at_a_time(ScriptLoaders(8, False, "spawn"), False)] == [
        "torch, persistent", "torch, 4 workers", "torch, 2 workers", "torch, 1 worker", "torch, 0 workers",
        "torch, forkserver", "safeloader",
    ]  # fmt: skip
    assert [s.label for s in one_at_a_time(ScriptLoaders(), False)] == ["safeloader"]
    assert Setting().label == "as it is"


def test_every_combination_is_there_once_and_none_that_torch_refuses() -> None:
    settings = list(everything(ScriptLoaders(4, False, "fork"), True))
    assert len(settings) == len(set(settings)) == 2 * 2 * (3 * 2 * 3 + 1) - 1
    assert Setting() not in settings
    assert not any(s.workers == 0 and (s.persistent is not None or s.start) for s in settings)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("parser.add_argument('--no-val', action='store_true')", ["--no-val"]),
        ("if os.environ.get('MY_SKIP_VALIDATION'): pass", ["MY_SKIP_VALIDATION=1"]),
        ("x = '--novel'; y = 'VALIDATION'; '--validate'", []),
        ("this is no program", []),
    ],
)
def test_a_switch_against_validation_is_found_in_the_text(source: str, found: list[str]) -> None:
    assert validation_switches(source) == found


def test_a_script_that_hangs_is_ended_and_its_place_told(tmp_path: Path) -> None:
    runner = Runner(str(SCRIPT), (str(tmp_path), "--in-main"), as_module=False, cap=2, enough=300, switch=None)
    hung = runner.run(Setting())
    assert (hung.outcome, hung.batches, hung.passes) == ("hung", 2, 1), hung
    line = SCRIPT.read_text().partition("time.sleep(1000)")[0].count("\n") + 1
    assert hung.detail == f"stood at programs/hangs.py:{line} in __getitem__"
    assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(_line(p))]


@pytest.mark.slow
def test_a_hanging_script_is_run_with_overrides_ended_and_judged(tmp_path: Path) -> None:
    """One real run each: hung as it is, finished with one worker, survived by safeloader."""
    runner = Runner(str(SCRIPT), (str(tmp_path),), as_module=False, cap=10, enough=300, switch="SKIP_VALIDATION=1")
    hung = runner.run(Setting(validation=False))
    assert (hung.outcome, hung.batches, hung.passes) == ("hung", 2, 1), hung
    assert "hangs.py" in hung.stack
    assert "called from hangs.py:" in hung.detail
    assert (hung.seen.workers, hung.seen.persistent) == (2, False)
    one = runner.run(Setting(workers=1))
    assert (one.outcome, one.batches, one.passes) == ("finished", 8, 2), one
    safe = runner.run(Setting(loader="safeloader"))
    assert (safe.outcome, safe.batches, safe.passes) == ("finished", 8, 2), safe
    told = verdict([hung, one, safe])
    assert told[0].startswith("As it is, the script hangs after 2 batches")
    assert told[1] == "It survives with: torch, 1 worker; safeloader."
    assert told[-1].startswith("Take safeloader")
    assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(_line(p))]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_script_that_fails_at_import_is_said_to_and_not_tried_further(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import subprocess, sys\nsubprocess.Popen(['sleep', '987'], start_new_session=True)\nimport nothing_here\n"
    )
    said = command("bisect", "--json", "--cap", 60, script)
    told = json.loads(said.stdout)
    assert said.exit_code == 1
    assert [one["outcome"] for one in told["runs"]] == ["died"]
    assert "No module named 'nothing_here'" in told["verdict"][0]
    assert "mend that first" in told["verdict"][0]
    assert not [p for p in psutil.process_iter() if _line(p) == ["sleep", "987"]]


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (["nowhere.py"], 2, "there is no file nowhere.py"),
        ([], 2, "Missing argument"),
        (["--cap", "0", "x.py"], 2, "--cap"),
    ],
)
def test_wrong_use_is_said_in_a_line(command: Callable[..., Any], line: list[str], status: int, words: str) -> None:
    said = command("bisect", *line)
    assert (said.exit_code, words in said.output) == (status, True), said.output


def test_the_arguments_of_every_loader_are_changed_and_torch_accepts_them(tmp_path: Path) -> None:
    """The bootstrap alone: no workers left, though the script asks for all that only workers can do."""
    script = tmp_path / "asks.py"
    script.write_text(
        "from torch.utils.data import DataLoader\n"
        "x = DataLoader(range(4), 2, False, None, None, 3, timeout=5, persistent_workers=True, prefetch_factor=3,\n"
        "               multiprocessing_context='fork')\n"
        "assert (x.num_workers, x.persistent_workers, x.batch_size) == (0, False, 2)\n"
        "assert len(list(x)) == 2\n"
    )
    orders = {"folder": str(tmp_path), "setting": Setting(workers=0).as_dict(), "as_module": False}
    code = "from safeloader.bisecting.program import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, str(script)],
        env={**os.environ, VARIABLE: json.dumps(orders)},
        check=True,
        timeout=60,
    )
    asked = json.loads((tmp_path / "loaders").read_text())
    assert asked == {"workers": 3, "persistent": True, "start": "fork"}


# ---------------------------------------------------------------- the verdict


def test_the_verdict_names_what_hangs_and_what_to_take() -> None:
    hung = run("hung", 2, "stood at x.py:3 in step")
    told = verdict([hung, run("died", workers=2), run("finished", workers=1), run("went on", 20, workers=0)])
    assert told[0] == "As it is, the script hangs after 2 batches; it stood at x.py:3 in step."
    assert told[1] == "It survives with: torch, 1 worker; torch, 0 workers."
    assert told[2] == "It does not with: torch, 2 workers (died)."
    assert told[3].startswith("Take torch, 0 workers")
    assert "look at the dataset" in verdict([hung, run("hung", loader="safeloader")])[-1]
    assert "what hung did not show" in verdict([run("finished"), run("finished", workers=1)])[-1]
    assert verdict([run("finished"), run("hung", workers=2)])[-1] == "It does not with: torch, 2 workers."
    assert "mend that first" in verdict([run("died", 0, "exit status 1", passes=0)])[0]
