"""The soak runs, strikes, compares, and says what is wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.soak.__main__ import problems, rows
from benchmarks.soak.strikes import Striker

ROOT = Path(__file__).resolve().parents[2]


def test_other_bytes_leftovers_growth_and_silence_are_problems() -> None:
    fine: dict[str, Any] = {
        "rows": [{"kind": "map", "batches": 3, "faults": {"died": 2}, "problems": []}],
        "problems": [],
        "left": {},
        "memory": [0, 10],
    }
    assert problems([fine]) == []
    assert rows([fine]) == [["map", "0", "0", "3", "0", "2 died", "equal to torch's"]]
    fine["rows"][0]["named"] = 1
    assert rows([fine])[0][-1] == "equal to torch's; 1 ended by a DivergenceError"
    wrong = {"rows": [{"kind": "map", "faults": {}, "problems": ["epoch 1, batch 2: other bytes than torch's"]}]}
    wrong |= {
        "problems": ["map did not end: it stands still"],
        "left": {"descriptors: socket": 2},
        "memory": [0, 10**9],
    }
    found = problems([wrong, {}])
    assert [text.partition(":")[0] for text in found] == [
        "rank 0", "rank 0, map", "rank 0 holds more than at the start", "rank 0 grew by 1000 MB", "rank 1 ended without a word"
    ]  # fmt: skip


def test_a_strike_hits_what_a_trainer_has_started_and_not_the_trainer(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; c = subprocess.Popen(['sleep', '100']); print(c.pid, flush=True); c.wait(); input()"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    child = psutil.Process(int(trainer.stdout.readline()))
    striker = Striker(tmp_path, random.Random(1))
    try:
        assert striker._hit("SIGKILL", [trainer.pid])
        child.wait(20)
        assert trainer.poll() is None
        assert not striker._hit("SIGKILL", [trainer.pid]), "nobody is left"
    finally:
        striker.close()
        trainer.kill()
        trainer.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_soak_ends_with_the_bytes_of_torch_and_nothing_left(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.soak",
        "--minutes",
        "1",
        "--ranks",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=890, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = json.loads((tmp_path / "results.json").read_text())["tables"]
    assert sum(row["batches"] for row in table["raw"][0]["rows"]) > 100
