"""How often each fault of a plan was done: a small file, which outlives the processes that write it."""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
from typing import NamedTuple

from safeloader.fault_plan import parse
from safeloader.observe.log import logger

__all__ = ["Handed", "handed", "new_tally"]

_announced: set[str] = set()
_tallies: dict[str, str] = {}  # plan -> file; one for the whole program, so that a new loader repeats nothing


class Handed(NamedTuple):
    """What a worker process is given: the plan and the tally's file; plain values."""

    text: str
    tally: str


def handed(text: str) -> Handed:
    """What to give to the processes of a loader with this plan. The log says once that there is one."""
    if text not in _announced:
        _announced.add(text)
        logger.warning("faults will be made on purpose in worker processes: %s", text)
    return Handed(text, _tallies.get(text) or new_tally(text, len(parse(text))))


def new_tally(text: str, faults: int) -> str:
    """Make the file that counts how often each fault of a plan was done. Returns its path."""
    descriptor, path = tempfile.mkstemp(prefix="safeloader-chaos-")
    os.write(descriptor, bytes(faults))
    os.close(descriptor)
    _tallies[text] = path
    atexit.register(_remove, path, os.getpid())
    return path


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)
