"""Real clients: each program once with torch's loader, and once patched, with a SIGKILL in mid-epoch; the same weights.

They have an environment of their own: ``make test-clients``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ROOT

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

CLIENTS = {
    "ignite": "ignite",
    "skorch": "skorch",
    "geometric": "torch_geometric",
    "timm_images": "timm",
    "ultralytics_detect": "ultralytics",
    "lit_data": "litdata",
    "fast_ai": "fastai",
    "mosaic": "streaming",
}
"""Programs, and the package that each needs."""

UNPROTECTED = ("lit_data", "fast_ai")
"""They build torch's own iterator themselves: an expected failure, as long as nobody takes that over."""


def run(client: str, how: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    """The exit status of a program, what it told, and all that it wrote."""
    if importlib.util.find_spec(CLIENTS[client]) is None:
        pytest.skip(f"{CLIENTS[client]} is not installed: make test-clients")
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.clients.programs.{client}", how, str(folder)],
        capture_output=True, text=True, timeout=140, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "YOLO_CONFIG_DIR": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    told = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    return done.returncode, told, done.stdout + done.stderr


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "mosaic"])
def test_it_gives_the_same_and_survives_a_killed_worker(client: str, tmp_path: Path) -> None:
    status, plain, wrote = run(client, "torch", tmp_path / "torch")
    assert status == 0, wrote
    status, told, wrote = run(client, "safeloader", tmp_path / "safeloader")
    if status and client in UNPROTECTED and "safeloader/runtime" not in wrote:
        pytest.xfail("torch's own iterator was built directly: this loader is not protected")
    assert status == 0, wrote
    assert told["killed"]
    assert told["causes"] == {"died": 1}
    assert told["result"] == plain["result"]


def test_mosaicml_streaming_gives_the_same_while_nobody_is_killed(tmp_path: Path) -> None:
    status, plain, wrote = run("mosaic", "torch", tmp_path / "torch")
    assert status == 0, wrote
    status, told, wrote = run("mosaic", "calm", tmp_path / "calm")  # its workers wait for one another: see ecosystem.md
    assert status == 0, wrote
    assert told["result"] == plain["result"]
