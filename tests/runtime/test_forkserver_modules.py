"""What a fork server imports: many modules that do harm, and values that must not be touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safeloader import Policy
from safeloader.runtime.start import client
from tests.fixtures_data import Draws
from tests.runtime.harness import make

# ---------------------------------------------------------------- many modules that do harm


def _package(folder: Path, name: str, submodules: int) -> list[str]:
    """A package like MONAI: each of its submodules reaches one that starts a thread."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(10_000,), daemon=True).start()\n"
    (folder / name / "backend.py").write_text(thread)
    for number in range(submodules):
        (folder / name / f"part_{number}.py").write_text(f"import {name}.backend\n")
    return [f"{name}.part_{number}" for number in range(submodules)]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The modules of each server that is started, by a trainer that knows nothing yet."""
    started: list[tuple[str, ...]] = []

    class Counted(client.ForkServer):
        def __init__(self, modules: tuple[str, ...], accelerators: bool, given: Any) -> None:
            started.append(modules)
            super().__init__(modules, accelerators, given)

    monkeypatch.setattr(client, "ForkServer", Counted)
    monkeypatch.setattr(client, "_trainer", client._Trainer())
    return started


def test_a_package_whose_submodules_all_do_harm_costs_one_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: list[tuple[str, ...]]
) -> None:
    preload = tuple(_package(tmp_path, "many_parts", 6))
    monkeypatch.syspath_prepend(tmp_path)
    with make(Draws(8), policy=Policy(start_method="forkserver", preload=preload), num_workers=1) as loader:
        assert len(list(loader)) == 2
    parts = [[name for name in modules if name.startswith("many_parts")] for modules in servers]
    # Another server may follow for what this test's own process has imported before.
    assert parts[0] == list(preload)
    assert not any(parts[1:])


def test_many_packages_that_do_harm_end_with_spawned_processes_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: list[tuple[str, ...]]
) -> None:
    names = [f"harmful_{number}" for number in range(5)]
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(10_000,), daemon=True).start()\n"
    (tmp_path / "reached.py").write_text(thread)
    for name in names:
        (tmp_path / f"{name}.py").write_text("import reached\n")
    monkeypatch.syspath_prepend(tmp_path)
    policy = Policy(start_method="forkserver", preload=tuple(names))
    with (
        make(Draws(16), policy=policy, num_workers=2) as loader,
        pytest.warns(UserWarning, match="3 servers in a row had to be given up") as caught,
    ):
        assert len(list(loader)) == 4
    assert sum("processes are spawned instead" in str(warning.message) for warning in caught) == 1
    assert len(servers) == 3


LOOKING = """
import warnings
from torch.distributed import *  # brings reduce_op, which warns whoever touches it
from torch.distributed import reduce_op
import torch
from safeloader import DataLoader, Policy

class Touchy:
    def __getattribute__(self, name):
        raise RuntimeError(f"somebody asked for {name}")

touchy = Touchy()

class Squares:
    def __len__(self): return 4
    def __getitem__(self, index): return index * index
"""


def test_nobody_touches_the_values_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "looked_at.py").write_text(LOOKING)
    script = tmp_path / "train.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from looked_at import DataLoader, Policy, Squares\n"
        "loader = DataLoader(Squares(), 2, num_workers=1, policy=Policy(start_method='forkserver', prestart=True))\n"
        "print([batch.tolist() for batch in loader], loader.report().faults)\n"
    )
    said = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (said.stdout, said.returncode) == ("[[0, 1], [4, 9]] []\n", 0), said.stderr
