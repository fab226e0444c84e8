"""What holds for every command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safeloader.cli import main

DOC = Path(__file__).parents[2] / "docs" / "command-line.md"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_has_an_example_and_the_documentation_names_the_command(command: Callable[..., Any], name: str) -> None:
    said = command(name, "--help")
    assert said.exit_code == 0
    assert f"Example: safeloader {name} " in said.output
    assert f"| [`{name}`](" in DOC.read_text()


def test_importing_the_command_line_imports_nothing_slow() -> None:

    code = "import sys, safeloader.cli; print(sorted({'torch', 'rich', 'psutil', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
