"""A wheel of this tree, and an environment that has it with what it requires and nothing else; made once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import bare, dist

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = ["torch", "numpy", "cloudpickle", "click", "tqdm"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dist.quick_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, installed by pip, and with the packages that it requires."""
    python = bare.make(tmp_path_factory.mktemp("bare") / "env", REQUIRED)
    site = next(python.parents[1].glob("lib/python*/site-packages"))
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(command, check=True, timeout=100, capture_output=True)
    return python


@pytest.fixture
def outside(bare_python: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the bare environment's Python with the given words, outside of the checkout."""
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(bare_python), *map(str, words)], cwd=tmp_path, env=plain | {"PYTHONUTF8": "1"} | more,
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip

    return run
