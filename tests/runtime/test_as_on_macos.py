"""Import, doctor, a loader with a killed worker, and checkpoints, where Python has nothing that macOS lacks.

This is a simulation on Linux: names that macOS does not have are taken from Python, and ``/proc`` and ``/sys`` are hidden from
safeloader's own code (`tests.runtime.as_on_macos`). It says nothing of macOS's own kernel and of MPS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT, environment

AS_ON_MACOS = Path(__file__).with_name("as_on_macos.py")  # not imported: it would take these things from this process
PROGRAM = """
import importlib, os, pkgutil, signal, sys
import torch
import safeloader
from safeloader import DataLoader, Policy
from safeloader.training import CheckpointStore, FiniteGuard, resume

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, index):
        if index == 21 and torch.utils.data.get_worker_info() and not os.path.exists(sys.argv[1] + "/died"):
            open(sys.argv[1] + "/died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((3,), float(index)) + torch.rand(())

if __name__ == "__main__":
    assert not hasattr(os, "memfd_create") and not hasattr(os, "pidfd_open")
    for module in pkgutil.walk_packages(safeloader.__path__, "safeloader."):
        if ".ffcv" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.manual_seed(1)
    loader = DataLoader(Numbers(), batch_size=4, num_workers=2, shuffle=True, policy=Policy(batch_timeout=60), name="train")
    got = list(loader)
    torch.manual_seed(1)
    expected = list(torch.utils.data.DataLoader(Numbers(), batch_size=4, num_workers=2, shuffle=True))
    assert len(got) == 10 and all(map(torch.equal, got, expected))
    assert [fault.cause for fault in loader.report().faults] == ["died"]
    model = torch.nn.Linear(3, 1)
    FiniteGuard(model)
    store = CheckpointStore(sys.argv[1] + "/checkpoints", run="a")
    store.save(3, model=model, loader=loader)
    assert resume(store, model=model, loader=loader).step == 3
    print("all of it")
"""


@pytest.fixture
def as_there(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "first").mkdir()
    shutil.copy(AS_ON_MACOS, tmp_path / "first" / "sitecustomize.py")
    path = os.pathsep.join([str(tmp_path / "first"), str(ROOT)])
    return environment(PYTHONPATH=path, _SAFELOADER_PORTABLE="1")


def test_a_loader_and_the_training_helpers(as_there: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "program.py", tmp_path], capture_output=True, text=True, timeout=170,
        env=as_there, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "all of it"), done.stderr
    assert "Exception ignored" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_the_doctor(as_there: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safeloader", "doctor"],
        capture_output=True,
        text=True,
        timeout=170,
        env=as_there,
        check=False,
    )
    assert "versions: Python" in done.stdout and "accelerators" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
