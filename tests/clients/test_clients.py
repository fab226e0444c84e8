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
    "geometric_nodes": "torch_geometric",
    "timm_images": "timm",
    "ultralytics_detect": "ultralytics",
    "ultralytics_classify": "ultralytics",
    "torchvision_reference": "torchvision",
    "lit_data": "litdata",
    "fast_ai": "fastai",
    "mosaic": "streaming",
    "monai_cache": "monai",
    "web_data": "webdataset",
    "hugging_face": "transformers",
    "sentence_pairs": "sentence_transformers",
    "forecasting": "pytorch_forecasting",
}
"""Programs, and the package that each needs."""


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


@pytest.mark.parametrize("client", CLIENTS)
def test_it_gives_the_same_and_survives_each_killed_worker(client: str, tmp_path: Path) -> None:
    status, plain, wrote = run(client, "torch", tmp_path / "torch")
    assert status == 0, wrote
    status, told, wrote = run(client, "safeloader", tmp_path / "safeloader")
    assert status == 0, wrote
    assert told["killed"]
    assert told["causes"] == {"died": told["killed"]}
    assert told["result"] == plain["result"]
    assert "NOT protected" not in wrote
