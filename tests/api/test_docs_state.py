"""The programs in docs/state.md run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_programs_in_the_documentation_of_the_state_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "state.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        path = tmp_path / f"program_{number}.py"
        path.write_text(block, encoding="utf-8")
        subprocess.run([sys.executable, "-W", "error", str(path)], check=True, timeout=100, cwd=ROOT, env=_environment())


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
