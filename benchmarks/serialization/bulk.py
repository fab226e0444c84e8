"""Bulk data, and what it costs a worker process to import a serialiser."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safeloader
from benchmarks.serialization.methods import METHODS, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

_IMPORTS = {
    "cloudpickle": "cloudpickle",
    "dill": "dill",
    "multiprocess": "multiprocess.reduction",
    "safeloader, reading half": "safeloader.runtime.carry",
}
_RUNS = 5


def bulk_table() -> list[str]:
    """Measure how long serialising plain data takes, and how much of it is copied."""
    import numpy

    bulk: dict[str, Any] = {
        "2 million ints": list(range(2_000_000)),
        "2 million strings": [str(i) for i in range(2_000_000)],
        "numpy array of 300 MB": numpy.ones(300 << 17, dtype=numpy.uint8).repeat(2),
    }
    lines = [
        "## Bulk data",
        "",
        "Seconds of CPU time for one dump (best of 3). *safeloader* is `pack`: arrays stay where they are.",
        "",
    ]
    lines += ["| data | plain pickle | " + " | ".join(NAMES) + " |", "|---|---|" + "---|" * len(NAMES)]
    for what, data in bulk.items():
        ways: list[Callable[[Any], object]] = [lambda obj: pickle.dumps(obj, 5)]
        ways += [_pack if name == "safeloader" else METHODS[name]()[0] for name in NAMES]
        lines.append(f"| {what} | " + " | ".join(f"{_best(way, data):.3f}" for way in ways) + " |")
    return lines


def _pack(obj: Any) -> object:
    from safeloader.runtime import carry

    return carry.pack(obj)


def _best(way: Callable[[Any], object], data: Any) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        kept = way(data)
        best = min(best, time.process_time() - start)
        del kept
    return best


def import_table() -> list[str]:
    """Measure imports in fresh interpreters, alone and where torch is imported already."""
    lines = [
        "## Import",
        "",
        f"Milliseconds of CPU time in a fresh interpreter (best of {_RUNS}). torch imports dill where it is installed.",
        "",
    ]
    lines += ["| module | alone | after torch |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Path(safeloader.__file__).parent, Path(folder, "safeloader"))
        for what, module in _IMPORTS.items():
            alone, after = (min(_import(first, module, folder) for _ in range(_RUNS)) for first in ("os", "torch"))
            lines.append(f"| {what} | {alone:.1f} | {after:.1f} |")
    return lines


def _import(first: str, module: str, path: str) -> float:
    program = f"import {first}, time; t = time.process_time(); import {module}; print((time.process_time() - t) * 1e3)"
    # Compiled files as in any installed package, whatever this environment says.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    return float(done.stdout)
