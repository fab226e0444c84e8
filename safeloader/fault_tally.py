"""How often each fault of a plan was done: a small file, which outlives the processes that write it.

When the program ends, the log names the faults that never happened: a plan that met nothing proves nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
from typing import NamedTuple

from safeloader import codes
from safeloader.fault_plan import Planned, parse

__all__ = ["Handed", "handed", "in_use", "new_tally"]

_announced: set[str] = set()
_tallies: dict[str, str] = {}  # plan -> file; one for the whole program, so that a new loader repeats nothing
_workers: dict[str, set[int]] = {}  # plan -> numbers of workers of the loaders that had it


class Handed(NamedTuple):
    """What a worker process is given: the plan and the tally's file; plain values."""

    text: str
    tally: str


def in_use(text: str, num_workers: int) -> None:
    """A loader with so many workers is iterated under this plan. The log says once that there is one."""
    if text not in _announced:
        _announced.add(text)
        codes.log_warning("SL110", "faults will be made on purpose in worker processes: %s", text)
    _workers.setdefault(text, set()).add(num_workers)
    handed(text)


def handed(text: str) -> Handed:
    """What to give to the processes of a loader with this plan."""
    return Handed(text, _tallies.get(text) or new_tally(text, len(parse(text))))


def new_tally(text: str, faults: int) -> str:
    """Make the file that counts how often each fault of a plan was done. Returns its path."""
    descriptor, path = tempfile.mkstemp(prefix="safeloader-chaos-")
    os.write(descriptor, bytes(faults))
    os.close(descriptor)
    _tallies[text] = path
    atexit.register(_end, path, text, os.getpid())
    return path


def _end(path: str, text: str, owner: int) -> None:
    if os.getpid() != owner:
        return
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            counts = file.read()
        _tell_of_the_rest([fault for fault in parse(text) if not counts[fault.number]], _workers.get(text, set()))
        os.unlink(path)


def _tell_of_the_rest(never: list[Planned], workers: set[int]) -> None:
    """Name the faults that never happened, if a loader was iterated under the plan."""
    if never and workers:
        listed = "; ".join(fault.text + _reason(fault, workers) for fault in never)
        codes.log_warning("SL111", "of the faults that were to be made on purpose, these never happened: %s", listed)


def _reason(fault: Planned, workers: set[int]) -> str:
    """Why it could not happen, where the plan alone shows it."""
    some = {number for number in workers if number}
    if not some:
        return " (no loader had worker processes: num_workers=0)"
    if fault.worker is not None and all(fault.worker >= number for number in some):
        return f" (no loader had a worker {fault.worker})"
    if fault.worker is None or fault.batch is None:
        return ""
    if all(fault.batch % number != fault.worker for number in some):
        owners = ", ".join(f"worker {fault.batch % number} of {number}" for number in sorted(some))
        return f" (batch {fault.batch} is loaded by {owners})"
    return ""
