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
    from collections.abc import Callable
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


def by_recipe(path: str, workers: int) -> dict[str, list[float]]:
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


def imports() -> float:
    """Seconds that an interpreter takes to import torch and FFCV: in a new process they come before all else."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import torch, ffcv"], capture_output=True, check=True)
    return time.perf_counter() - begun


def measure(path: Path, workers: int, say: Callable[[str], None]) -> list[tuple[str, float, float | None]]:
    """(what, seconds until the first batch, the seconds of bare FFCV that they stand beside)."""
    with tempfile.TemporaryDirectory() as cache:
        found = {}
        for name, way in (("bare", "bare"), ("cold", "trainer"), ("warm", "trainer"), ("hosted", "process")):
            say(f"starts and changes of size: {name}")
            found[name] = run(way, path, workers, cache)
    bare, cold, warm, hosted = (found[name] for name in ("bare", "cold", "warm", "hosted"))
    start, rebuilt, by_hand = bare["rebuilt"][0], min(bare["rebuilt"][2:]), min(bare["in place"])
    return [
        ("bare: start (nothing compiled)", start, None),
        ("bare: new loader at a size seen before", rebuilt, None),
        ("bare: size set by hand", by_hand, None),
        ("an interpreter imports torch and FFCV", imports(), None),
        ("trainer: start, nothing on disk", cold["in place"][0], start),
        ("trainer: start, compiled code on disk", warm["in place"][0], start),
        ("trainer: size changes in place (slowest of 3)", max(warm["in place"][1:]), by_hand),
        ("trainer: rebuilt at a size seen before (slowest of 2)", max(warm["rebuilt"][2:]), rebuilt),
        ("process: start with its imports, compiled code on disk", hosted["in place"][0], start),
        ("process: size changes in place (slowest of 3)", max(hosted["in place"][1:]), by_hand),
        ("process: rebuilt at a size seen before (slowest of 2)", max(hosted["rebuilt"][2:]), rebuilt),
    ]


if __name__ == "__main__":
    way_, path_, workers_ = sys.argv[1:]
    told = by_recipe(path_, int(workers_)) if way_ == "bare" else wrapped(path_, int(workers_), way_)
    print(json.dumps(told))
