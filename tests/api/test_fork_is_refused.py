"""Fork is refused, whoever asks for it, and no process imports the main script."""

from __future__ import annotations

import multiprocessing
import os
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


SETTLED = """
import sys, warnings
early = "early" in sys.argv
if not early:
    import safeloader.loader
import multiprocessing, torch
lock = multiprocessing.{thing}()  # as tqdm's first bar does
assert torch.multiprocessing.get_start_method(allow_none=True) == "fork"
from safeloader import DataLoader
warnings.simplefilter("error")
loader = DataLoader(list(range(4)), num_workers=1)
print([batch.tolist() for batch in loader])
if {asks}:
    torch.multiprocessing.{name}("fork", force=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print(len(list(DataLoader(list(range(4)), num_workers=1))), sum("asks for fork" in str(w.message) for w in caught))
"""


@pytest.mark.skipif(sys.version_info >= (3, 14) or sys.platform != "linux", reason="fork is no default there")
@pytest.mark.parametrize("strict", ["0", "1"])
@pytest.mark.parametrize("when", ["early", "late"])
def test_what_multiprocessing_settles_on_by_itself_is_nobody_s_wish(when: str, strict: str, tmp_path: Path) -> None:
    asks = when == "late" and strict == "0"
    script = tmp_path / "train.py"
    name = "set_start_method" if asks else "nothing"
    script.write_text(SETTLED.format(thing="RLock" if when == "late" else "Queue", asks=asks, name=name))
    said = subprocess.run(
        [sys.executable, str(script), when],
        capture_output=True, text=True, check=False, timeout=100, cwd=Path(__file__).parents[2],
        env={**os.environ, "SAFELOADER_STRICT": strict},
    )  # fmt: skip
    assert said.stdout == "[[0], [1], [2], [3]]\n" + ("4 1\n" if asks else ""), said.stderr


def test_one_loader_warns_of_fork_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = DataLoader(DATA, num_workers=1, multiprocessing_context="fork")
        list(loader)
        list(loader)
    assert sum("asks for fork" in str(warning.message) for warning in caught) == 1


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
