"""First batches: a start, a change of size, a rebuild. One process a measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from benchmarks.ffcv.data import pipelines

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (128, 160, 128, 160)


def first_batch(loader: Any) -> float:
    """Seconds until the first batch is there."""
    begun = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    taken = time.perf_counter() - begun
    for _ in iterator:
        pass
    return taken


def bare(path: str, workers: int) -> dict[str, list[float]]:
    """FFCV as it is: a new loader for each size, as recipes do it, and the size set by hand."""
    from ffcv.loader import Loader

    rebuilt = []
    for size in SIZES:
        begun = time.perf_counter()
        loader = Loader(path, 64, num_workers=workers, pipelines=pipelines(size))
        rebuilt.append(time.perf_counter() - begun + first_batch(loader))
    by_hand = pipelines(128)
    decoder = by_hand["image"][0]
    loader = Loader(path, 64, num_workers=workers, pipelines=by_hand)
    first_batch(loader)
    in_place = []
    for size in SIZES[1:]:
        decoder.output_size = (size, size)
        in_place.append(first_batch(loader))
    return {"rebuilt": rebuilt, "in place": in_place}


def wrapped(path: str, workers: int, mode: Any) -> dict[str, list[float]]:
    """safeloader's: sizes in place, and through a factory."""
    from safeloader import Policy
    from safeloader.ffcv import Loader, ProgressiveResize

    resize = ProgressiveResize(lambda epoch: SIZES[epoch % len(SIZES)])
    found = {}
    for name, given in (("in place", pipelines(128)), ("rebuilt", pipelines)):
        with Loader(
            path, 64, workers, pipelines=given, resize=resize, policy=Policy(ffcv_mode=mode, fallback="off")
        ) as loader:
            found[name] = [first_batch(loader) for _ in SIZES]
    return found


def run(way: str, path: Path, workers: int, cache: str) -> dict[str, list[float]]:
    """One measurement in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.ffcv.starts", way, str(path), str(workers)],
        capture_output=True, text=True, check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache},
    )  # fmt: skip
    found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(path: Path, workers: int) -> list[tuple[str, float]]:
    """(what, seconds until the first batch)."""
    with tempfile.TemporaryDirectory() as cache:
        without = run("bare", path, workers, cache)
        cold = run("trainer", path, workers, cache)
        warm = run("trainer", path, workers, cache)
        hosted = run("process", path, workers, cache)
    return [
        ("bare: start (nothing compiled)", without["rebuilt"][0]),
        ("bare: new loader at a size seen before", min(without["rebuilt"][2:])),
        ("bare: size set by hand", min(without["in place"])),
        ("trainer: start, nothing on disk", cold["in place"][0]),
        ("trainer: start, compiled code on disk", warm["in place"][0]),
        ("trainer: size changes in place", max(warm["in place"][1:])),
        ("trainer: rebuilt at a size seen before", max(warm["rebuilt"][2:])),
        ("process: start, compiled code on disk", hosted["in place"][0]),
        ("process: size changes in place", max(hosted["in place"][1:])),
        ("process: rebuilt at a size seen before", max(hosted["rebuilt"][2:])),
    ]


if __name__ == "__main__":
    way_, path_, workers_ = sys.argv[1:]
    told = bare(path_, int(workers_)) if way_ == "bare" else wrapped(path_, int(workers_), way_)
    print(json.dumps(told))
