"""The program's side: a plan that is in force, and how often each of its faults was done."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from safeloader.fault_plan import parse
from safeloader.fault_tally import new_tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.fault_plan import Planned

__all__ = ["Chaos", "chaos"]

_VARIABLE = "SAFELOADER_CHAOS"


class Chaos:
    """A plan in force.

    Attributes:
        planned: Its faults, in order.

    Args:
        text: The plan, as for ``SAFELOADER_CHAOS``.
    """

    planned: list[Planned]

    def __init__(self, text: str) -> None:
        self.planned = parse(text)
        self._tally = new_tally(text, len(self.planned))

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
