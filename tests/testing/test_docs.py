"""What docs/chaos.md shows runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from safeloader.testing import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "chaos.md").read_text()


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    program = tmp_path / "page.py"
    program.write_text(code)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=90, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'kill:batch=3': 1, 'slow:sample=7,seconds=0.1': 1}\n"


def test_every_kind_is_on_the_page() -> None:
    assert all(f"| `{kind}` |" in PAGE for kind in KINDS)
