"""What a process has once, and its workers have one of each: that of the worker that is in is there.

Generators, ``get_worker_info()``, ``__main__``, globals of the user's modules, context variables, and ambient states
(the folder, torch's default dtype, ...).
"""

from __future__ import annotations

import contextvars
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.runtime.child.generators import Generators
from safeloader.runtime.child.own_globals import OwnGlobals
from safeloader.runtime.isolation import OwnStates

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.child.main_script import Script
    from safeloader.runtime.child.worker import Worker

__all__ = ["ActiveWorker"]


class _Own(NamedTuple):
    script: Script
    states: OwnStates
    context: contextvars.Context


class ActiveWorker:
    """Which worker is active in this process, among those of all its loaders."""

    def __init__(self) -> None:
        self.generators = Generators()
        self.holder: Worker | None = None
        self._run: Callable[..., object] = _nobody  # in the holder's context variables
        self._own: weakref.WeakKeyDictionary[Worker, _Own] = weakref.WeakKeyDictionary()
        self._fresh = True

    def set_up(self, make: Callable[..., Worker], given: tuple[Any, ...], script: Script) -> Worker:
        """Make a worker and let it in, while no other is; what is there now is what it begins with.

        Args:
            make: makes it, given its ``own_globals``.
            given: its dataset and functions.
            script: the main script that it sees; it is there already.
        """
        own = _Own(script, OwnStates(), contextvars.copy_context())
        own_globals = OwnGlobals(given, first=self._fresh)
        self._fresh = False
        own.states.enter()
        own.context.run(_copy_decimals)
        self.holder = worker = own.context.run(make, own_globals=own_globals)
        self._own[worker] = own
        self._run = own.context.run
        return worker

    def run(self, worker: Worker, act: Callable[..., Any], *args: Any) -> Any:
        """Let a worker in, and do something in its context variables."""
        if worker is not self.holder:
            self.give(worker)
        return self._run(act, *args)

    def give(self, worker: Worker | None) -> None:
        """Let another worker in, which was set up before."""
        if worker is not self.holder:
            outside = None
            if self.holder is not None:
                self.holder.leave()
                outside = self._own[self.holder].states.leave()
            self.holder, self._run = worker, _nobody if worker is None else self._own[worker].context.run
            if worker is not None:
                self._own[worker].states.enter(outside)
                worker.enter()
                self._own[worker].script.be_main()


def _nobody(*_: object) -> object:
    raise AssertionError("no worker is in")


def _copy_decimals() -> None:
    """Decimal's context is changed in place, so a copy of the variables is not enough."""
    decimal: Any = sys.modules.get("decimal")
    if decimal is not None:
        decimal.setcontext(decimal.getcontext().copy())
