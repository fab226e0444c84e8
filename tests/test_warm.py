"""A program that is the fork of a process with torch finds what an interpreter of its own finds, and ends alike."""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import safeloader
from tests import programs, warm, warm_workers
from tests.fixtures_data import as_they_are
from tests.runtime.harness import processes_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="such programs are forked on Linux alone")

TELLS = """
import atexit, multiprocessing, os, signal, sys, threading, warnings
import torch
atexit.register(print, "the end")
print(sys.argv, __name__, vars().get("__file__"), __spec__ and __spec__.name, sys.path, sys.orig_argv)
print(os.getcwd(), os.environ["OF_THE_TEST"], os.getsid(0) == os.getpid(), threading.active_count())
print(multiprocessing.parent_process(), signal.getsignal(signal.SIGCHLD), sorted(os.listdir("/proc/self/fd")))
print(sys.warnoptions, [one[:3] for one in warnings.filters], "tests" in sys.modules, sys.stdin.read())
print("error", file=sys.stderr)
threading.Timer(0.1, print, ["a thread"]).start()
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(autouse=True, scope="module")
def server() -> None:
    """One that knows this process's environment as it is now: what other tests import changes it."""
    warm.end()
    warm.begin(programs.environment())


@pytest.mark.parametrize("command", [("-W", "ignore", "tells.py"), ("-u", "-W", "error", "-m", "tells")], ids=str)
def test_it_finds_what_a_fresh_one_finds(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "tells.py").write_text(TELLS)

    def started(fresh: bool) -> subprocess.Popen[str]:
        return programs.start(*command, "3", cwd=tmp_path, fresh=fresh, OF_THE_TEST="here")

    forked, own = started(False), started(True)
    assert type(forked) is not type(own)
    found = programs.end(forked, 60)
    assert found == programs.end(own, 60)
    assert found.code == 3 and found.out.endswith("a thread\nthe end\n")


def test_each_draws_what_no_other_one_draws(tmp_path: Path) -> None:
    draws = (
        "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1), torch.initial_seed())"
    )
    script = programs.program(tmp_path, draws)
    told = [programs.run_script(script).split() for _ in range(2)]
    assert not set(told[0]) & set(told[1])


def test_its_end_is_told_whatever_it_is(tmp_path: Path) -> None:
    script = programs.program(tmp_path, "print('ready', flush=True)\nimport time; time.sleep(100)")
    running = programs.start_script(script)
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    code, _, said = programs.end(running, 60)
    assert code == -signal.SIGINT and "KeyboardInterrupt" in said


def test_what_an_interpreter_reads_when_it_starts_asks_for_one_of_its_own() -> None:
    for command, variables in ((("-O", "-m", "platform"), {}), (("-m", "platform"), {"PYTHONHASHSEED": "1"})):
        running = programs.start(*command, **variables)
        assert type(running) is subprocess.Popen
        assert programs.end(running, 60).code == 0


def test_importing_the_tests_sets_nothing_that_a_start_reads() -> None:
    """Nor does a test of before leave such a thing. Else no process is a fork from then on: what is to be passed over is in
    ``warm_workers``."""
    assert warm_workers.of_the_start(dict(os.environ)) == warm_workers.begun_with


# ---------------------------------------------------------------- processes of safeloader's


def _file(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # the listing's own
        return ""


class Finds(torch.utils.data.Dataset[dict[str, Any]]):
    """What a worker finds."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        files = Counter(re.sub(r"[0-9].*", "", name) for name in map(_file, os.listdir("/proc/self/fd")) if name)
        return {
            "environment": dict(os.environ), "folder": os.getcwd(), "path": sys.path, "argv": sys.argv, "files": files,
            "options": (sys.warnoptions, [one[:3] for one in warnings.filters]), "hash": hash("a string"),
            "parent": os.getppid(), "leads": os.getsid(0) == os.getpid(), "threads": threading.active_count(),
            "of torch": (torch.get_num_threads(), torch.initial_seed()), "main": sorted(vars(sys.modules["__main__"])),
            "signals": {n: str(signal.getsignal(n)) for n in signal.valid_signals()}, "gc": gc.isenabled(),
            "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()), "line": [os.path.basename(each) for each in sys.orig_argv[:1]],
            "modules": {name for name in sys.modules if name.partition(".")[0] in ("safeloader", "torch", "numpy")},
            "faults": faulthandler.is_enabled(),
        }  # fmt: skip


def _found_by_a_worker() -> tuple[dict[str, Any], str]:
    with safeloader.DataLoader(
        Finds(), batch_size=None, num_workers=1, collate_fn=as_they_are, persistent_workers=True
    ) as loader:
        torch.manual_seed(1)
        (found,) = loader
        (process,) = processes_of(loader)
        return found, " ".join(process.cmdline())


def test_a_worker_that_is_a_fork_finds_what_a_fresh_one_finds() -> None:
    with warm_workers.only_fresh():
        own, line = _found_by_a_worker()
    found, forked_line = _found_by_a_worker()
    assert found == own
    words = "from safeloader.runtime.child.process_main import main"
    assert words in line and words in forked_line and found["parent"] == os.getpid()
