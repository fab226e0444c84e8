"""The processes of one run: found by the directory that their environment names, watched, and counted."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from benchmarks.hangs import facts
from safeloader.bisecting import processes

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    import psutil

GLANCE = 0.05
"""Seconds between two looks at a program that runs."""
TOTAL = 8
"""A program that goes on without coming to an end is given up after so many caps."""


class Interrupted(Exception):
    """The benchmark is being ended from outside."""


def members(directory: Path) -> list[psutil.Process]:
    """The living processes of the run in ``directory``."""
    return processes.members(facts.DIRECTORY, str(directory))


def wait(child: subprocess.Popen[bytes], directory: Path, cap: float, stop: threading.Event) -> int | None:
    """The exit code of a run's program, or None when nothing happened for ``cap`` seconds.

    Raises:
        Interrupted: ``stop`` was set.
    """
    begun = last = time.monotonic()
    path, size = facts.path_in(directory), -1
    while True:
        try:
            return child.wait(GLANCE)
        except subprocess.TimeoutExpired:
            pass
        if stop.is_set():
            raise Interrupted
        now = time.monotonic()
        if path.exists() and path.stat().st_size != size:
            size, last = path.stat().st_size, now
        if now - last > cap or now - begun > TOTAL * cap:
            return None


def left_behind(directory: Path, grace: float) -> tuple[int, float | None]:
    """How many processes of the run live on after ``grace`` seconds, and when the last one had ended."""
    limit = time.monotonic() + grace
    while True:
        left = len(members(directory))
        now = time.monotonic()
        if not left:
            return 0, now
        if now > limit:
            return left, None
        time.sleep(0.2)
