"""Long runs in which something goes wrong all the time: `pytest -m stress`."""

from __future__ import annotations

import random
import signal
import threading
from typing import Any

import psutil
import pytest

from safeloader import Policy
from tests.fixtures_data import Draws, Stream
from tests.runtime.harness import COUNT, make, persistent_epochs, processes_of, run_epoch

EPOCHS = 8


def _torment(loader: Any, over: threading.Event, seed: int) -> None:
    """Kill and stop processes at random moments, whatever they are doing."""
    generator = random.Random(seed)
    while not over.wait(generator.expovariate(1.0)):
        try:
            victim = generator.choice(processes_of(loader))
            victim.send_signal(generator.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))
        except (psutil.Error, LookupError, RuntimeError):  # it has just ended, or there is none
            pass


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("kind", ["draws", "stream"])
def test_the_bytes_are_torchs_while_processes_are_killed_and_stopped_at_random(kind: str, attempt: int) -> None:
    dataset = Draws(COUNT) if kind == "draws" else Stream(COUNT)
    policy = Policy(batch_timeout=3.0, max_restarts=100_000, bad_sample_attempts=100_000)
    loader = make(dataset, persistent_workers=True, policy=policy)
    over = threading.Event()
    tormentor = threading.Thread(target=_torment, args=(loader, over, attempt))
    tormentor.start()
    try:
        for epoch in range(EPOCHS):
            assert run_epoch(loader, epoch) == persistent_epochs(kind)[epoch]
    finally:
        over.set()
        tormentor.join()
        loader.close()


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("attempt", range(3))
def test_the_ladder_goes_down_and_up_under_fire_and_the_bytes_stay_torchs(attempt: int) -> None:
    policy = Policy(batch_timeout=3.0, max_restarts=1, restart_period=3.0, recover_after=4, bad_sample_attempts=100_000)
    loader = make(Draws(COUNT), persistent_workers=True, policy=policy)
    over = threading.Event()
    tormentor = threading.Thread(target=_torment, args=(loader, over, 100 + attempt))
    tormentor.start()
    try:
        for epoch in range(EPOCHS):
            assert run_epoch(loader, epoch) == persistent_epochs()[epoch]
    finally:
        over.set()
        tormentor.join()
        loader.close()
