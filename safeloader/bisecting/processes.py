"""The processes of one run of a program: found wherever they went, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["catches", "kill_all", "members"]

_ROUNDS = 20  # of killing what is found: a process may start another one meanwhile


def members(variable: str, value: str, session: int | None = None) -> list[psutil.Process]:
    """The living processes that belong to a run.

    Args:
        variable: a variable of the environment that all of them inherit.
        value: what it contains in this run only.
        session: number of a session whose processes belong to it, too.
    """
    found = []
    for process in psutil.process_iter():
        try:
            marked = value in process.environ().get(variable, "") or (
                session is not None and os.getsid(process.pid) == session
            )
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which ends it otherwise. False where the system does not tell."""
    try:
        with open(f"/proc/{pid}/status") as file:
            caught = next(line for line in file if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def kill_all(child: subprocess.Popen[bytes], find: Callable[[], list[psutil.Process]]) -> bool:
    """Kill a program that leads a session of its own, and everything that it started.

    Args:
        child: the program.
        find: returns the living processes of the run.

    Returns:
        Whether all of it is gone.
    """
    for _ in range(_ROUNDS):
        doomed = find()
        if child.poll() is None:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        elif not doomed:
            return True
        for process in doomed:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(doomed, timeout=1)
        try:
            child.wait(1)
        except subprocess.TimeoutExpired:
            continue
    return False
