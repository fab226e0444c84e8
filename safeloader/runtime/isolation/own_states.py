"""Ambient states of one worker of several that share a process: put in when it comes in, put back when it leaves.

What there is while no worker is in is what a new one begins with: what the process was born with, and what imports have
changed. Context variables are kept by a context of each worker (``WorkerHost``).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from safeloader.runtime.isolation.python_states import python_states
from safeloader.runtime.isolation.system_states import system_states
from safeloader.runtime.isolation.torch_states import torch_states

if TYPE_CHECKING:
    from safeloader.runtime.isolation.state import Surrounding

__all__ = ["OwnStates", "states"]

_OF_THE_PROCESS = ("start method", "collection of garbage", "timer")


class OwnStates:
    """Those of one worker."""

    def __init__(self) -> None:
        self._own: list[Any] | None = None
        self._outside: list[Any] | None = None  # while the worker is in

    def enter(self, outside: list[Any] | None = None) -> None:
        """This worker works now.

        Args:
            outside: what there is, where somebody has just left; None: it is read.
        """
        if self._outside is None:
            self._outside = _read() if outside is None else outside
            if self._own is not None:
                _put(self._outside, self._own)

    def leave(self) -> list[Any] | None:
        """Another one works. Returns what there is now, if it is known."""
        outside, self._outside = self._outside, None
        if outside is not None:
            self._own = _read()
            _put(self._own, outside)
        return outside


@functools.cache
def states() -> list[Surrounding]:
    """Those that a worker may have of its own."""
    found = [*torch_states(), *python_states(), *system_states()]
    return [state for state in found if state.begins != "trainer" and state.name not in _OF_THE_PROCESS]


def _read() -> list[Any]:
    return [state.read() for state in states()]


def _put(now: list[Any], wanted: list[Any]) -> None:
    for state, current, value in zip(states(), now, wanted, strict=True):
        state.change(current, value)
