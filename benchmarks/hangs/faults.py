"""What the datasets of the scenarios use to go wrong: faults that fire once, and the ways to die or to stand still."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from multiprocessing.synchronize import SemLock
from typing import NoReturn

from benchmarks.hangs import facts


def fires(name: str = "fault", *, always: bool = False) -> bool:
    """Whether the fault called ``name`` is due now; notes the fact.

    Args:
        name: One fault of the run; each fires once, whichever process asks first.
        always: Fire each time that it is asked, instead of once.
    """
    if facts.quiet():
        return False
    if not always:
        try:
            os.close(os.open(facts.directory() / f"fired-{name}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
    facts.note("fault", name=name)
    return True


def armed(name: str) -> bool:
    """Whether the trainer has armed ``name`` by `arm`."""
    return (facts.directory() / f"armed-{name}").exists()


def arm(name: str) -> None:
    """Let the datasets know, in whatever process they are, that ``name`` has come."""
    (facts.directory() / f"armed-{name}").touch()


def disarm(name: str) -> None:
    """Take back `arm`."""
    (facts.directory() / f"armed-{name}").unlink(missing_ok=True)


def sign_in() -> None:
    """Called by a dataset: the process that runs it can be found by `workers`."""
    (facts.directory() / f"worker-{os.getpid()}").touch()


def workers() -> list[int]:
    """The living processes, apart from the caller, that have loaded samples, by their process ids."""
    pids = sorted(int(path.name.removeprefix("worker-")) for path in facts.directory().glob("worker-*"))
    return [pid for pid in pids if pid != os.getpid() and os.path.exists(f"/proc/{pid}")]


def die() -> NoReturn:
    """Be killed, as by the out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process survived SIGKILL")


def die_holding_locks() -> NoReturn:
    """Take every lock of `multiprocessing` that this process can see, then be killed."""
    for thing in gc.get_objects():
        if issubclass(type(thing), SemLock):
            thing.acquire(False)
    die()


def stop() -> None:
    """Stand still as a stopped process, until somebody continues or kills it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_forever() -> NoReturn:
    """Stand still in Python, as in a read that never ends."""
    while True:
        time.sleep(1)


def hold_the_gil() -> None:
    """Stand still in C for an hour without giving up the interpreter lock: no other thread of the process runs."""
    ctypes.PyDLL(None).sleep(3600)


def segfault() -> NoReturn:
    """Read address 0."""
    ctypes.string_at(0)
    sys.exit("reading address 0 went well")


def kill_trainer() -> None:
    """Kill the training process by SIGKILL, from one of its workers."""
    os.kill(int((facts.directory() / "trainer").read_text()), signal.SIGKILL)
