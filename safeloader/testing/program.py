"""The program's side: which plan is in force, and how often each of its faults was done."""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from safeloader.observe.log import logger
from safeloader.testing.plan import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.testing.plan import Planned

__all__ = ["Chaos", "Handed", "chaos", "handed"]

_VARIABLE = "SAFELOADER_CHAOS"
_announced: set[str] = set()
_tallies: dict[str, str] = {}  # plan -> file; one for the whole program, so that a new loader repeats nothing


class Handed(NamedTuple):
    """What a worker process is given: the plan and the tally's file; plain values."""

    text: str
    tally: str


class Chaos:
    """A plan in force.

    Attributes:
        planned: Its faults, in order.
    """

    planned: list[Planned]

    def __init__(self, text: str) -> None:
        self.planned = parse(text)
        self._tally = _new_tally(text, len(self.planned))

    def done(self) -> dict[str, int]:
        """How often each fault was done so far, by its text."""
        with open(self._tally, "rb") as file:
            counts = file.read()
        return {fault.text: counts[fault.number] for fault in self.planned}

    @property
    def all_done(self) -> bool:
        """True once each fault was done at least once."""
        return all(self.done().values())


@contextlib.contextmanager
def chaos(text: str) -> Iterator[Chaos]:
    """Within this context, loaders that are made suffer these faults. Each begins anew, also if the text is the same.

    ::

        with chaos("kill:batch=3; hang:sample=7") as faults:
            weights = train()
        assert faults.all_done and weights == undisturbed

    Args:
        text: As for ``SAFELOADER_CHAOS``.

    Raises:
        SettingsError: the text is not understood.
    """
    plan = Chaos(text)
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = text
    try:
        yield plan
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def handed(text: str) -> Handed:
    """What to give to the processes of a loader with this plan. The log says once that there is one."""
    if text not in _announced:
        _announced.add(text)
        logger.warning("faults will be made on purpose in worker processes: %s", text)
    return Handed(text, _tallies.get(text) or _new_tally(text, len(parse(text))))


def _new_tally(text: str, faults: int) -> str:
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
