"""What observing costs the trainer: its processor time a batch, with nothing observed, as always, with every sink."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.workloads import Rows
from safeloader.observe.timings import Pulse, Timings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.utils.data import DataLoader

ARMS = ("nothing", "always", "all sinks", "trace")
_BATCH = 4


class _NoPulse(Pulse):
    def asks(self) -> None: ...

    def got(self) -> float:
        return 0.0

    def ended(self) -> None: ...


class _NoTimings(Timings):
    def loaded(self, task: int, worker: int, load: float, collate: float | None) -> None: ...

    def delivered(self, task: int, transfer: float) -> None: ...

    def drew(self, seconds: float) -> None: ...

    def given(self, waited: float) -> None: ...


def build(arm: str, batches: int, folder: Path) -> DataLoader[Any]:
    """The loader of one arm: two persistent workers."""
    import safeloader

    wanted = {"SAFELOADER_EVENTS": str(folder / f"{arm}.jsonl")} if arm in ("all sinks", "trace") else {}
    if arm == "trace":
        wanted["SAFELOADER_TRACE"] = "1"
    os.environ.update(wanted)
    loader = safeloader.DataLoader(
        Rows(batches * _BATCH, (8,), "float32"), _BATCH, num_workers=2, persistent_workers=True, name=arm
    )
    for name in wanted:
        del os.environ[name]
    if arm == "nothing":
        safe = loader._safe
        safe._pulse = safe.recorder.pulse = _NoPulse()
        safe.recorder.timings = _NoTimings()
    return loader


@contextlib.contextmanager
def scraped_each_second() -> Iterator[None]:
    """Serve metrics, and have them scraped from a thread."""
    from safeloader import metrics

    server, over = metrics.serve(0), threading.Event()

    def scrape() -> None:
        while not over.wait(1.0):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10).read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        server.close()


def epoch(loader: DataLoader[Any], rate: float) -> float:
    """Seconds of the trainer's processor time a batch, at so many batches a second."""
    count, began = 0, time.thread_time()
    due = time.monotonic()
    for _ in loader:
        count += 1
        due += 1 / rate
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
    return (time.thread_time() - began) / count


def alone(calls: int = 200_000) -> float:
    """Seconds that the observing calls of a batch take by themselves."""
    pulse, timings = Pulse(), Timings()
    began = time.perf_counter()
    for task in range(calls):
        pulse.asks()
        timings.loaded(task, task & 1, 0.001, 0.0001)
        timings.delivered(task, 0.00005)
        timings.given(pulse.got())
    return (time.perf_counter() - began) / calls


def measure(repeats: int, batches: int, rate: float) -> dict[str, Any]:
    """Processor seconds a batch of each arm, epochs of all arms in turn."""
    with tempfile.TemporaryDirectory() as folder:
        arms = {arm: build(arm, batches, Path(folder)) for arm in ARMS}
        for loader in arms.values():
            list(loader)
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for repeat in range(repeats):
            for arm in ARMS if repeat % 2 == 0 else reversed(ARMS):
                with scraped_each_second() if arm == "all sinks" else contextlib.nullcontext():
                    seconds[arm].append(epoch(arms[arm], rate))
        for loader in arms.values():
            loaders.close(loader)
    return {"seconds": seconds, "alone": statistics.median(alone() for _ in range(3))}


def main() -> None:
    """Measure as the command line says and print the result as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1000.0, help="batches a second")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    child.tell(**measure(asked.repeats, asked.batches, asked.rate))


if __name__ == "__main__":
    main()
