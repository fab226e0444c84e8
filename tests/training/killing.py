"""A program: save checkpoints without end in a process, kill it at a random instant, look at what it left; and again.

``python -m tests.training.killing FOLDER KILLS SEED`` prints one line of JSON. Each process is a fork of this small
program, which has one thread and torch imported; so a kill costs milliseconds and not a start.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

import torch
from torch import nn

from safeloader.training import CheckpointStore

KEEP = 3


def _store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, run="killed", keep_last=KEEP)


def _model(step: int) -> nn.Module:
    """All of it says which step it is of; some hundred kilobytes in a few tensors."""
    model = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 200))
    for parameter in model.parameters():
        nn.init.constant_(parameter, step)
    return model


def _save_for_ever(folder: Path, told: int) -> None:
    store = _store(folder)
    newest = store.checkpoints()
    step = newest[0].step if newest else 0
    os.write(told, struct.pack("<q", 0))  # it begins
    while True:
        step += 1
        store.save(step, model=_model(step))
        os.write(told, struct.pack("<q", step))


def _seconds_of_a_save(folder: Path) -> float:
    """On this machine, now: so that a kill comes in the middle of one."""
    store = _store(folder)
    begun = time.monotonic()
    for step in range(5):
        store.save(step, model=_model(step))
    return (time.monotonic() - begun) / 5


def _saves_and_dies(folder: Path, seconds: float) -> int:
    """Returns the last step that the process knew to be saved; 0 for none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _save_for_ever(folder, writing)
        finally:
            os._exit(1)
    os.close(writing)
    os.read(reading, 8)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"it ended by itself: {status}"
    with open(reading, "rb") as pipe:
        words = pipe.read()
    return max((step for (step,) in struct.iter_unpack("<q", words)), default=0)


def main(folder: Path, kills: int, seed: int) -> None:
    """Kill, and look; each time."""
    torch.set_num_threads(1)
    generator = random.Random(seed)
    known, temporaries, unacknowledged = 0, 0, 0
    patience = 3 * _seconds_of_a_save(folder / "measured")
    for _ in range(kills):
        known = max(known, _saves_and_dies(folder, generator.uniform(0.0, patience)))
        temporaries += len(list(folder.glob(".*.tmp")))
        store = _store(folder)
        assert not list(folder.glob(".*.tmp")), "what a killed writer left is swept away"
        found = store.latest_good()
        assert not store.passed_over, store.passed_over
        assert (found is None) == (known == 0) or (found is not None and known == 0), f"{known} was saved, and is gone"
        if found is None:
            continue
        assert found.step in (known, known + 1), f"{known} was saved; the newest good one is {found.step}"
        unacknowledged += found.step == known + 1
        known = found.step
        weights = store.load(found).parts["model"]
        assert all(bool((tensor == found.step).all()) for tensor in weights.values()), "a mixture of two steps"
        assert len(store.checkpoints()) >= min(KEEP, known)
    store.save(known + 1, model=_model(known + 1))
    left = [c.step for c in store.checkpoints()]
    assert left == list(range(known + 1, max(known - KEEP + 1, 0), -1)), f"one whole save tidies up, but left {left}"
    print(json.dumps({"kills": kills, "saved": known, "cut short": temporaries, "not told": unacknowledged}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
