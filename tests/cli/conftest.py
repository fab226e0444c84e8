"""Commands in this process, and in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from safeloader.cli import main
from tests.programs import run as run_python

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def command() -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*line: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in line], env={"COLUMNS": "150"})

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own."""

    def run(*line: object) -> subprocess.CompletedProcess[str]:
        code, out, err = run_python("-m", "safeloader", *map(str, line), seconds=100, cwd=Path.cwd())
        return subprocess.CompletedProcess([str(word) for word in line], code, out, err)

    return run


@pytest.fixture
def programs() -> Iterator[Path]:
    """The folder of the test programs; what a command imported from it is forgotten."""
    path, modules = list(sys.path), set(sys.modules)
    yield PROGRAMS
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(PROGRAMS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def parsed(result: Any) -> Any:
    """What a command wrote as JSON."""
    return json.loads(result.stdout)
