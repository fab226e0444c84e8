"""Many faults at once, at random but reproducible places; and long runs under fire: ``pytest -m stress``."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from typing import Any

import psutil
import pytest

from safeloader import Policy
from tests.fixtures_data import Draws, Stream
from tests.runtime.conftest import Rig
from tests.runtime.harness import COUNT, first_index, make, persistent_epochs, processes_of, run_epoch

QUICK = ["SIGKILL", "exit 0", "exit 7", "SIGSEGV", "sys.exit", "interrupt"]
SLOW = ["SIGSTOP", "sleep", "lock in C"]


def _disturb(rig: Rig, generator: random.Random, deeds: list[str]) -> int:
    """One epoch with three orders at random places, and one kill from outside. Returns the number of faults."""
    if rig.kind == "draws":
        firsts = [first_index(batch) for batch in persistent_epochs()[rig.epoch].batches]
        places = [
            ("sample", generator.randrange(COUNT)),
            (generator.choice(["collate", "collated"]), generator.choice(firsts)),
            generator.choice([("unpickle", "dataset"), ("sample", generator.randrange(COUNT))]),
        ]
    else:
        places = [(generator.choice(["stream", "stream", "iter", "end"]), worker) for worker in (0, 1)]
        places = [
            (place, f"{worker}-{generator.randrange(14)}" if place == "stream" else worker) for place, worker in places
        ]
    for place, key in places:
        rig.orders.give(
            place,
            key,
            generator.choice([*QUICK, "OSError"] if place == "unpickle" else QUICK if place == "iter" else deeds),
        )

    def kill_one() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # another fault was quicker, and a fork server reaps at once
            generator.choice(processes_of(rig.loader)).kill()

    faults = rig.check_epoch({generator.randrange(1, 10): kill_one})
    rig.orders.withdraw()
    return len(faults)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_any_mixture_of_faults_leaves_the_bytes_torchs(rig: Rig, number: int) -> None:
    assert _disturb(rig, random.Random(number), [*QUICK, *SLOW]) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_any_mixture_of_faults_in_an_iterable_dataset_leaves_the_bytes_torchs(stream_rig: Rig, number: int) -> None:
    assert _disturb(stream_rig, random.Random(100 + number), [*QUICK, *SLOW]) >= 1


@pytest.mark.stress
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("number", range(3))
def test_many_mixtures_of_faults_leave_the_bytes_torchs(rig: Rig, stream_rig: Rig, number: int) -> None:
    generator = random.Random(1000 + number)
    for _ in range(8):
        assert _disturb(rig, generator, [*QUICK, *SLOW]) >= 1
        assert _disturb(stream_rig, generator, [*QUICK, *SLOW]) >= 1


def _torment(loader: Any, over: threading.Event, generator: random.Random) -> None:
    """Kill and stop processes at random moments, whatever they are doing."""
    while not over.wait(generator.expovariate(0.3)):
        try:
            victim = generator.choice(processes_of(loader))
            victim.send_signal(generator.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))
        except (psutil.Error, LookupError, RuntimeError):  # it has just ended, or there is none
            pass


@pytest.mark.stress
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("kind", ["draws", "stream"])
@pytest.mark.parametrize("ladder", [False, True], ids=["always two processes", "down and up the ladder"])
def test_the_bytes_are_torchs_while_processes_are_killed_and_stopped_at_random(
    kind: str, ladder: bool, number: int
) -> None:
    many = 100_000
    policy = Policy(
        batch_timeout=3.0,
        bad_sample_attempts=many,
        max_restarts=1 if ladder else many,
        restart_period=5.0,
        recover_after=4,
    )
    dataset = Draws(COUNT) if kind == "draws" else Stream(COUNT)
    loader = make(dataset, persistent_workers=True, policy=policy)
    over = threading.Event()
    tormentor = threading.Thread(target=_torment, args=(loader, over, random.Random(number)))
    tormentor.start()
    try:
        for epoch in range(20):
            assert run_epoch(loader, epoch) == persistent_epochs(kind)[epoch]
    finally:
        over.set()
        tormentor.join()
        loader.close()
