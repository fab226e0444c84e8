"""Programs as people write them: no main guard, classes and lambdas of ``__main__``, standard input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.harness import environment, program, run_script

# No main guard. Everything that is carried lives in this script, beside things that cannot be.
SCRIPT = """
import dataclasses, os, signal, sys, threading
import torch
from torch.utils.data import Dataset
from safeloader import DataLoader, Policy

print("runs in", os.getpid(), flush=True)
lock = threading.Lock()            # cannot be carried, and nobody asks for it
model = torch.nn.Linear(2, 2)
offset = 100
trainer = os.getpid()

class Broken(Exception):
    pass

@dataclasses.dataclass
class Pair:
    left: torch.Tensor
    right: list

    def total(self):
        return int(self.left.sum()) + offset

class Base(Dataset):
    def __len__(self):
        return 24

class Squares(Base):
    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def __getitem__(self, index):
        if index == 9 and not os.path.exists(sys.argv[1]) and os.getpid() != trainer:
            open(sys.argv[1], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 20:
            raise Broken(f"{index}: no such picture")
        return self.transform(index)

def collate(samples):
    return Pair(torch.tensor(samples), [s + offset for s in samples])

def square_plus(extra):
    return lambda index: index * index + extra + offset

loader = DataLoader(Squares(square_plus(1)), batch_size=4, num_workers=2, collate_fn=collate,
                    worker_init_fn=lambda worker: torch.manual_seed(worker))
total = 0
stream = iter(loader)
for number in range(6):
    try:
        pair = next(stream)
    except Broken as error:
        assert "20: no such picture" in str(error), error
        print("Broken at batch", number)
    else:
        assert type(pair) is Pair and isinstance(pair.left, torch.Tensor)
        total += pair.total()
expected = sum(i * i + 101 for i in range(20)) + 5 * offset
print("total", total == expected, sorted(fault.cause for fault in loader.report().faults))
"""


def _check(out: str) -> None:
    lines = out.splitlines()
    assert sum(line.startswith("runs in") for line in lines) == 1, "a worker ran the script"
    assert lines[1:] == ["Broken at batch 5", "total True ['died', 'raised']"]


def test_a_script_without_main_guard_works_and_gets_its_own_classes(tmp_path: Path) -> None:
    _check(run_script(program(tmp_path, SCRIPT), str(tmp_path / "killed")))


def test_a_script_from_standard_input_works(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-", str(tmp_path / "killed")],
        input=SCRIPT, capture_output=True, text=True, timeout=90, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _check(done.stdout)


@pytest.mark.slow
def test_a_script_given_with_c_and_one_run_as_a_module_work(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")],
        capture_output=True, text=True, timeout=90, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _check(done.stdout)
    program(tmp_path, SCRIPT, "as_module.py")
    done = subprocess.run(
        [sys.executable, "-m", "as_module", str(tmp_path / "killed again")],
        capture_output=True, text=True, timeout=90, env=environment(), cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _check(done.stdout)
