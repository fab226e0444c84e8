"""Checks of what is installed and how this program is set up."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import threading

import torch
import torch.multiprocessing

from safeloader.config import resolve
from safeloader.doctor.cgroups import usable_cpus
from safeloader.doctor.finding import Finding
from safeloader.errors import SettingsError
from safeloader.observe.format import inline, many
from safeloader.runtime.start import hashing

__all__ = [
    "CHECKS", "ffcv", "hash_seed", "own_settings", "start_method", "threads_now", "threads_of_libraries", "try_ffcv",
    "versions",
]  # fmt: skip

_FFCV_SECONDS = 90.0
# Written and read back, so that numba's compiler and the C extension have both worked.
_FFCV_PROGRAM = """
import importlib.metadata, os, tempfile
from ffcv.fields import IntField
from ffcv.fields.decoders import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter

class Numbers:
    def __len__(self): return 8
    def __getitem__(self, i): return (i,)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "numbers.beton")
        DatasetWriter(path, {"n": IntField()}, num_workers=1).from_indexed_dataset(Numbers())
        loader = Loader(path, batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL,
                        pipelines={"n": [IntDecoder(), ToTensor()]}, drop_last=False)
        seen = [int(n) for (batch,) in loader for n in batch.flatten()]
    assert seen == list(range(8)), seen
    print("ffcv", importlib.metadata.version("ffcv"))
"""


def versions() -> Finding:
    """Python and torch."""
    text = f"Python {sys.version.split()[0]}, torch {torch.__version__}"
    release = torch.__version__.split("+")[0].split(".")
    if sys.version_info < (3, 10) or (int(release[0]), int(release[1])) < (2, 5):
        return Finding("versions", "bad", text, "install Python 3.10 and torch 2.5, or later")
    return Finding("versions", "ok", text)


def own_settings() -> Finding:
    """The ``SAFELOADER_*`` variables: a misspelt one is an error as soon as a loader is made."""
    try:
        found = resolve()
    except SettingsError as error:
        return Finding("settings", "bad", inline(error.what), error.hint)
    given = [f"{source}={getattr(found, name)}" for name, source in found.sources.items() if source.startswith("SAFE")]
    return Finding("settings", "ok", ", ".join(given) or "no SAFELOADER_ variable is set: the defaults hold")


def hash_seed() -> Finding:
    """Whether worker processes iterate sets of strings in the trainer's order."""
    if hashing.is_known():
        return Finding("hash seed", "ok", f"{hashing.seed()}, in the trainer and in worker processes")
    text = f"random in the trainer, {hashing.seed()} in worker processes"
    hint = (
        "sort the names, or run with PYTHONHASHSEED=0, where a module numbers classes by iterating a set of strings "
        "when it is imported: it numbers them otherwise in the trainer than in its workers (all of which agree)"
    )
    return Finding("hash seed", "ok", text, hint)


def start_method(threads: int | None = None) -> Finding:
    """Whether torch's own loader would fork the program, and what it would copy that way.

    Args:
        threads: that the program's own code has started; None: no code of it was run.
    """
    set_here = torch.multiprocessing.get_start_method(allow_none=True)
    method = set_here or torch.multiprocessing.get_all_start_methods()[0]  # the default is named first
    if method != "fork":
        return Finding("start method", "ok", f"{method}")
    if set_here:
        text = "fork, set by the program; safeloader refuses it and spawns"
    else:
        text = "fork is the default of torch's own loader here; safeloader spawns"
    if threads:
        text += f"; the program has started {many(threads, 'thread')}, whose locks a fork would copy"
    hint = (
        'use safeloader, or give torch\'s own loader multiprocessing_context="spawn": a forked worker inherits held '
        "locks and accelerator contexts, and hangs"
    )
    return Finding("start method", "warn" if set_here or threads else "ok", text, hint)


def threads_now() -> int:
    """Threads of this process, those of C libraries included where the system tells."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def threads_of_libraries(num_workers: int | None = None) -> Finding:
    """Threads of OpenMP, MKL and OpenCV against the processors."""
    usable = usable_cpus()
    given = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)]
    text = f"torch uses {many(torch.get_num_threads(), 'thread')} in the trainer"
    text += f" ({', '.join(given)})" if given else ""
    opencv = sys.modules.get("cv2")
    if opencv is not None:
        each = int(opencv.getNumThreads())
        text += f", OpenCV {each} in every process"
        if each > 1 and (num_workers or 2) * each > usable:
            hint = "call cv2.setNumThreads(0) in worker_init_fn: safeloader's processes set torch to one, not OpenCV"
            return Finding("threads", "warn", text, hint)
    if torch.get_num_threads() > max(usable, 1):
        hint = f"set OMP_NUM_THREADS={int(usable) or 1}: on {usable:.3g} usable processors they slow each other down"
        return Finding("threads", "warn", text, hint)
    return Finding("threads", "ok", text + "; worker processes one each")


def ffcv() -> Finding:
    """Whether FFCV is there; whether it works takes some ten seconds to find out, and is asked for with --ffcv."""
    if importlib.util.find_spec("ffcv") is None:
        return Finding("FFCV", "ok", "not installed (needed only for .beton files)")
    try:
        version = importlib.metadata.version("ffcv")
    except importlib.metadata.PackageNotFoundError:
        version = "of an unknown version"
    return Finding("FFCV", "ok", f"ffcv {version} is installed; --ffcv tries it")


def try_ffcv(program: str = _FFCV_PROGRAM, seconds: float = _FFCV_SECONDS) -> Finding:
    """Whether FFCV writes and reads a small file. In a process of its own: it may crash."""
    if importlib.util.find_spec("ffcv") is None:
        return Finding("FFCV", "bad", "not installed", "install it: see docs/ffcv.md")
    try:
        ran = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        hint = "install it again; or look where it stands: py-spy dump, while it runs"
        return Finding("FFCV", "bad", f"it did not write and read a small file within {seconds:.0f} s", hint)
    if ran.returncode == 0:
        return Finding("FFCV", "ok", f"{ran.stdout.strip().splitlines()[-1]}: a small file was written and read")
    last = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
    hint = "install it again for this Python and numpy; loaders of .beton files will fail like this"
    return Finding("FFCV", "bad", f"installed, but it does not work: {inline(last)}", hint)


CHECKS = (("versions", versions), ("settings", own_settings), ("hash seed", hash_seed))
