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
