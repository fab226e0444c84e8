"""The public names are typed, as a user's type checker sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(400)
def test_typed_use_of_the_public_names_is_accepted_and_mistakes_are_found() -> None:
    pytest.importorskip("mypy")
    here = Path(__file__)
    said = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(here.with_name("typing_checks.py"))],
        capture_output=True, text=True, cwd=here.parents[2], check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout
