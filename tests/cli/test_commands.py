"""What holds for every command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safeloader.cli import main
from tests.until import until

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "command-line.md"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_has_an_example_and_the_documentation_names_the_command(command: Callable[..., Any], name: str) -> None:
    said = command(name, "--help")
    assert said.exit_code == 0
    assert f"Example: safeloader {name} " in said.output
    assert f"| [`{name}`](" in DOC.read_text()


@pytest.mark.parametrize("line", [("doctor", "--json"), ("top", "--once")])
def test_a_closed_pipe_ends_a_command_without_a_traceback(line: tuple[str, ...]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "safeloader", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    said = child.stderr.read()
    assert (child.wait(60), said) == (141, "")
    child.stderr.close()


def test_an_interrupt_ends_a_command_with_130(tmp_path: Path) -> None:
    program, ready = tmp_path / "waits.py", tmp_path / "ready"
    program.write_text(f"import pathlib, time\npathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "safeloader", "run", str(program)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(ready.exists)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60) == (None, "interrupted\n")
    assert child.returncode == 130


def test_no_color_is_obeyed(tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    code = "from safeloader.cli.tables import console; console().print('a finding', style='bold red')"
    for environment, coloured in (({"TERM": "xterm-256color"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)):
        subprocess.run([sys.executable, "-c", code], stdout=slave, check=True, timeout=60, cwd=ROOT, env=environment)
        assert (b"\x1b[1;31m" in os.read(master, 1000)) is coloured
    os.close(master)
    os.close(slave)


def test_importing_the_command_line_imports_nothing_slow() -> None:

    code = "import sys, safeloader.cli; print(sorted({'torch', 'rich', 'psutil', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---------------------------------------------------------------- exit statuses, as docs/command-line.md has them


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (["run", "nowhere.py"], 2, "there is no file nowhere.py"),
        (["run", "-m", "nowhere_at_all"], 2, "no module nowhere_at_all"),
        (["run", "-m", "json.nowhere"], 2, "no module json.nowhere"),
        (["run", "."], 2, "there is no file ."),
        (["run", "text.py"], 1, "is not a Python program"),
        (["bisect", "nowhere.py"], 2, "there is no file nowhere.py"),
        (["bisect", "-m", "nowhere_at_all"], 2, "no module nowhere_at_all"),
        (["audit", "nowhere.py:loader"], 2, "there is no file nowhere.py"),
        (["audit", "nowhere_at_all:loader"], 2, "there is no module nowhere_at_all"),
        (["audit", "json:loader"], 2, "json has no loader"),
        (["audit", "loader"], 2, "names no object"),
        (["doctor", "nowhere.py:loader"], 2, "there is no file nowhere.py"),
        (["trace", "nowhere.jsonl"], 2, "does not exist"),
        (["beton", "nowhere.beton"], 2, "does not exist"),
        (["checkpoint", "check", "nowhere"], 2, "does not exist"),
        (["top", "--jsno"], 2, "No such option"),
    ],
)
def test_wrong_use_is_2_and_found_out_before_torch_is_imported(
    line: list[str], status: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "text.py").write_text("this is no program")
    code = (
        "import sys, safeloader.cli\ntry:\n    safeloader.cli.main(sys.argv[1:])\n"
        "finally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, words in done.stderr) == (status, "False\n", True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("program", "status", "words"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('no more')", 1, "no more"),
        ("raise SystemExit", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("raise BrokenPipeError", 141, ""),
    ],
)
def test_the_status_of_run_is_its_programs(
    process: Callable[..., subprocess.CompletedProcess[str]], program: str, status: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(program)
    done = process("run", tmp_path / "program.py")
    assert (done.returncode, words in done.stderr) == (status, True), done.stderr


# ---------------------------------------------------------------- what other people's names do to a terminal

_ODD = "\x1b]0;owned\x07\x1b[2J"
_SHOWN = "\\x1b]0;owned\\x07\\x1b[2J"


@pytest.mark.parametrize(
    "line",
    [
        ["run", f"{_ODD}.py"],
        ["bisect", f"{_ODD}.py"],
        ["trace", f"{_ODD}.jsonl", "-o", "x.json"],
        ["audit", f"raises.py:{_ODD}"],
        ["audit", "raises.py:loader"],
        ["doctor", "raises.py:loader"],
        ["checkpoint", "list", "."],
    ],
)
def test_escapes_in_names_and_messages_are_shown_and_not_obeyed(
    command: Callable[..., Any], line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "raises", raising=False)
    (tmp_path / "raises.py").write_text(f"def loader():\n    raise ValueError({_ODD!r})\n")
    (tmp_path / f"{_ODD}.pt").write_bytes(b"no checkpoint")
    said = command(*line)
    assert "\x1b" not in said.output
    assert "\x07" not in said.output
    assert "\\x1b" in said.output, said.output


def test_the_log_the_report_and_errors_show_escapes_and_do_not_obey_them() -> None:
    from safeloader.errors import BadSampleError
    from safeloader.observe.events import Fault
    from safeloader.observe.recorder import Recorder

    code = "import logging; from safeloader.observe.log import logger, configure; from safeloader.config import resolve"
    code += f"; configure(resolve()); logger.warning('x %s', {_ODD!r})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stderr
    assert said.endswith(f"x {_SHOWN}\n")
    code = "import logging; logging.basicConfig(format='%(message)s')\nfrom safeloader.observe.log import logger"
    code += f"\nlogger.warning('x %s', {_ODD!r})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stderr
    assert said == f"x {_SHOWN}\n", "a handler of the program's own gets no more"
    from safeloader.config import resolve

    told = Recorder(f"train {_ODD}", resolve(environ={}))
    told.fault(Fault(0.0, "", "raised", sample=_ODD, detail=_ODD, stack=f'File "{_ODD}.py", line 3, in f'))
    error = BadSampleError(f"sample {_ODD} is bad", where=_ODD, story=[_ODD])
    for text in (str(told.report()), str(error)):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert _SHOWN in text
    assert error.what == f"sample {_ODD} is bad", "programs get what there was"
