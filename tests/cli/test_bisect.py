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

from safeloader.bisecting.budget import START, Budget, note_timeouts, timeouts_of
from safeloader.bisecting.evidence import Finding, Stacks, findings, how_it_died, progress_of, where_it_stood
from safeloader.bisecting.matrix import (
    ScriptLoaders,
    Setting,
    everything,
    has_main_guard,
    one_at_a_time,
    validation_switches,
)
from safeloader.bisecting.program import VARIABLE, read_beat
from safeloader.bisecting.verdict import verdict
from safeloader.bisecting.watch import Glance, Run, Runner
from safeloader.config import Policy

SCRIPT = Path(__file__).parent / "programs" / "hangs.py"


ALWAYS = Path(__file__).parent / "programs" / "always_hangs.py"
NAMED = Finding("hung", 17, 0, 4, 3, "data/rows.py:6 in __getitem__")


def run(
    outcome: Any, batches: int = 8, detail: str = "", seconds: float = 10.0, passes: int = 1,
    found: tuple[Finding, ...] = (), **setting: Any,
) -> Run:  # fmt: skip
    return Run(Setting(**setting), outcome, seconds, batches, passes, detail, "", ScriptLoaders(), list(found))


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
    assert told[1].startswith("safeloader names the sample: sample 9 (epoch 0, batch 2) hung 1 process, at ")
    assert told[2] == "It survives with: torch, 1 worker; safeloader."
    assert told[-1].startswith("Take safeloader")
    assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(_line(p))]


def test_a_sample_that_always_hangs_is_named_before_the_run_is_given_up(tmp_path: Path) -> None:
    """Each attempt has twice the time, and the cap grows with them; what is done about it is told meanwhile."""
    glances: list[Glance] = []
    runner = Runner(str(ALWAYS), (str(tmp_path),), as_module=False, cap=4, enough=300, switch=None)
    safe = runner.run(Setting(loader="safeloader"), glances.append)
    assert (safe.outcome, safe.batches) == ("died", 2), safe
    line = ALWAYS.read_text().partition("time.sleep(1000)")[0].count("\n") + 1
    assert safe.found == [Finding("hung", 9, 0, 2, 3, f"programs/always_hangs.py:{line} in __getitem__")]
    assert "BadSampleError: sample 9 hangs" in safe.detail
    assert glances[-1].batches == 2
    assert max(glance.allowed for glance in glances) >= 4 + START
    told = verdict([run("hung", 2), run("finished", workers=0), safe])
    assert told[1].startswith("safeloader names the sample: sample 9 (epoch 0, batch 2) hung 3 processes, at programs/")
    assert told[-1].startswith("Mend that sample: load dataset[9] alone")


def test_a_worker_that_torch_forked_is_asked_where_it_stands(tmp_path: Path) -> None:
    runner = Runner(str(ALWAYS), (str(tmp_path),), as_module=False, cap=2, enough=300, switch=None)
    hung = runner.run(Setting())
    assert hung.outcome == "hung"
    line = ALWAYS.read_text().partition("time.sleep(1000)")[0].count("\n") + 1
    assert hung.detail.endswith(f"; a worker stood at always_hangs.py:{line} in __getitem__"), hung


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
        (["-m", "nowhere_at_all"], 2, "no module nowhere_at_all"),
        (["-m", "json.nowhere"], 2, "no module json.nowhere"),
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


@pytest.mark.parametrize("loader", ["torch", "safeloader"])
def test_batches_of_a_loader_without_workers_are_counted_once(tmp_path: Path, loader: str) -> None:
    script = tmp_path / "counts.py"
    script.write_text("from torch.utils.data import DataLoader\nassert len(list(DataLoader(range(16), 4))) == 4\n")
    orders = {"folder": str(tmp_path), "setting": Setting(loader=loader).as_dict(), "as_module": False}
    code = "from safeloader.bisecting.program import main; main()"
    environment = {**os.environ, VARIABLE: json.dumps(orders)}
    subprocess.run([sys.executable, "-c", code, str(script)], env=environment, check=True, timeout=60)
    assert read_beat(tmp_path) == (4, 1)


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


def test_a_named_sample_is_the_advice_and_no_setting_cures_it() -> None:
    hung, safe = run("hung", 4), run("died", 4, loader="safeloader", found=(NAMED,))
    told = verdict([hung, run("finished", workers=0), safe])
    assert told[1] == (
        "safeloader names the sample: sample 17 (epoch 0, batch 4) hung 3 processes, at data/rows.py:6 in __getitem__."
    )
    assert "load dataset[17] alone" in told[-1]
    assert 'Policy(on_bad_sample="skip")' in told[-1]
    assert "torch, 0 workers loads it" in told[-1]
    assert verdict([hung, safe])[-1].endswith("No other setting helps.")
    raised = run("died", 4, loader="safeloader", found=(NAMED._replace(cause="raised", attempts=1, place=""),))
    assert verdict([hung, raised])[-1] == (
        "Mend that sample: load dataset[17] alone in a fresh Python. No other setting helps."
    )
    once = run("finished", 8, loader="safeloader", found=(NAMED._replace(attempts=1),))
    told = verdict([hung, once])
    assert told[1].endswith("hung 1 process, at data/rows.py:6 in __getitem__ and was then loaded by another one.")
    assert told[-1].startswith("Take safeloader")


def test_without_a_main_guard_torch_is_not_asked_to_spawn() -> None:
    labels = [setting.label for setting in one_at_a_time(ScriptLoaders(2, False, "fork"), False, guarded=False)]
    assert labels == ["torch, persistent", "torch, 1 worker", "torch, 0 workers", "safeloader"]
    assert not any(setting.start for setting in everything(ScriptLoaders(2, False, "fork"), True, guarded=False))
    told = verdict([run("hung"), run("hung", workers=0)], ["spawn", "forkserver"])
    assert "Not tried with torch: spawn and forkserver. The script has no main guard" in told[2]
    assert has_main_guard("if __name__ == '__main__': main()")
    assert has_main_guard("if '__main__' == __name__:\n    main()")
    assert not has_main_guard("print(__name__)\nif x: y")


# ---------------------------------------------------------------- budgets and evidence


@pytest.mark.parametrize("cap", [2.0, 60.0])
@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_every_attempt_of_safeloader_fits_into_what_its_run_is_given(cap: float, attempts: int) -> None:
    budget = Budget.under_safeloader(cap, attempts)
    assert budget.batch_timeout is not None
    for failed in range(attempts + 1):
        assert budget.silence(4, failed) > budget.batch_timeout * 2**failed, "the deadline of this attempt passes first"
    assert budget.batch_timeout * 2**attempts == cap, "the last attempt has the whole cap"
    assert Budget(cap).silence(4) == cap
    assert Budget(cap).silence(0) == 60


def test_deadlines_of_the_scripts_own_policy_are_obeyed(tmp_path: Path) -> None:
    noted = tmp_path / "timeouts"
    assert timeouts_of(noted) is None
    for arguments in ({}, {"timeout": 300}, {"timeout": 300, "policy": Policy(batch_timeout=7)}, {"policy": "none"}):
        note_timeouts(str(noted), arguments)
    assert noted.read_text().split() == ["120.0", "300.0", "7.0"]
    assert timeouts_of(noted) == 300
    assert Budget(60, 300).silence(4, 2) > 1200


def test_events_are_progress_and_evidence_as_far_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "events"
    assert (progress_of(path), findings(path)) == ((0, 0), [])
    stack = 'File "rows.py", line 6, in __getitem__'
    fault = {"event": "fault", "cause": "hung", "sample": 17, "epoch": 0, "batch": 4, "stack": stack}
    events = [{"event": "start"}, fault | {"attempts": 1}, {"event": "restart"}, fault | {"attempts": 2}]
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "fau')
    assert progress_of(path) == (4, 2)
    assert findings(path) == [Finding("hung", 17, 0, 4, 2, "rows.py:6 in __getitem__")]
    path.write_text("".join(json.dumps(event) + "\n" for event in [*events, {"event": "resume"}, {"event": "stall"}]))
    assert progress_of(path) == (5, 0)


def test_how_a_run_ended_is_told_by_its_error_and_its_stacks(tmp_path: Path) -> None:
    (tmp_path / "stderr").write_text("my.own.BadError: \x1b[31mno\nsome later line\n")
    assert how_it_died(1, tmp_path) == "exit status 1: my.own.BadError: \\x1b[31mno"
    assert how_it_died(-9, tmp_path).startswith("SIGKILL")
    (tmp_path / "stderr").write_text("RuntimeError:\n An attempt has been made to start a new process before the\n")
    assert "without a main guard" in how_it_died(1, tmp_path)
    stack = (
        'Current thread 0x1 (most recent call first):\n  File "{}", line 3 in f\n  File "/x/t.py", line 9 in <module>'
    )
    main, idle, busy = (stack.format(name) for name in (os.__file__, os.__file__, "/x/rows.py"))
    assert where_it_stood(Stacks(main, (idle,))).endswith("called from t.py:9 in <module>")
    assert where_it_stood(Stacks(main, (idle, busy))).endswith("; a worker stood at rows.py:3 in f")
    assert "gave no stack" in where_it_stood(Stacks())
