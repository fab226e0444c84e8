"""Fork is refused, whoever asks for it, and no process imports the main script."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from safeloader import DataLoader, ForkRefusedError, Policy

DATA = list(range(8))


@pytest.mark.parametrize("context", ["fork", multiprocessing.get_context("fork")], ids=["name", "object"])
def test_a_fork_context_is_replaced_by_spawn_with_a_warning(context: Any) -> None:
    with pytest.warns(UserWarning, match="asks for fork"):
        loader = DataLoader(DATA, num_workers=1, multiprocessing_context=context)
    assert loader.multiprocessing_context.get_start_method() == "spawn"


def test_a_fork_context_is_an_error_under_strict() -> None:
    with pytest.raises(ForkRefusedError, match="asks for fork"):
        DataLoader(DATA, num_workers=1, multiprocessing_context="fork", policy=Policy(strict=True))


def test_a_spawn_context_needs_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = DataLoader(DATA, num_workers=1, multiprocessing_context="spawn")
    assert loader.multiprocessing_context.get_start_method() == "spawn"


SCRIPT = """
import multiprocessing, os, sys, warnings
print("imported by", os.getpid())
if "fork" in sys.argv:
    import torch.multiprocessing
    torch.multiprocessing.set_start_method("fork", force=True)
import torch
from safeloader import DataLoader

class Squares(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.tensor([i * i, os.getpid() != TRAINER])

TRAINER = os.getpid()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = [row.tolist() for batch in DataLoader(Squares(), batch_size=4, num_workers=2) for row in batch]
print(rows == [[i * i, 1] for i in range(8)], sum("asks for fork" in str(w.message) for w in caught) > 0)
"""


@pytest.mark.parametrize("asked", [True, False], ids=["set_start_method", "nobody asks"])
def test_a_script_without_a_main_guard_is_imported_once_and_served_by_fresh_processes(
    tmp_path: Path, asked: bool
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    said = subprocess.run(
        [sys.executable, str(script), *(["fork"] if asked else [])],
        capture_output=True, text=True, check=True, timeout=100, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert said.stdout.count("imported by") == 1
    assert said.stdout.split("\n")[1] == f"True {asked}"
