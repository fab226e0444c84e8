"""The fork server: a fresh interpreter that imports what processes need, then forks one for each request.

It starts no thread, opens no file, loads no sample and never sees the dataset; a *template*, which it forks, does. What
it imports is checked (``fork_safety``); a module that does more than define things is named to the trainer, which
starts another server without it.

It ends when the trainer kills it, or when the trainer is gone.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from typing import NoReturn

from safeloader.notes import in_one_line
from safeloader.runtime import system
from safeloader.runtime.child import birth, process_main
from safeloader.runtime.start import fork_safety, phases
from safeloader.runtime.start.forking import Forking

__all__ = ["main"]

_BASE = ("torch", "torch.version", "numpy", "numpy.version")  # whose files stand for their packages


def main(control: int, lifeline: int, starts: int, row: int, modules: tuple[str, ...], accelerators: bool) -> NoReturn:
    """Serve until the trainer is gone.

    Args:
        control: inherited: where requests come from.
        lifeline: inherited.
        starts: inherited: where it tells how far it is, and its processes after it.
        row: its place there.
        modules: what to import besides what every process needs.
        accelerators: whether devices stay visible.
    """
    system.disregard(signal.SIGINT, signal.SIGTERM)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it has to reap, whether the trainer wants to or not
    why = "" if system.die_with(lifeline) else "the kernel would not end it with the trainer"
    if birth.ended(lifeline):
        os._exit(0)
    if not accelerators:
        process_main.hide_accelerators()
    server = ForkServerMain(control, lifeline, phases.PhaseMark(starts, row))
    server.why = why
    server.learn(modules)
    server.serve()


class ForkServerMain(Forking):
    """Imports, and forks."""

    _threads = 1

    def learn(self, modules: tuple[str, ...]) -> None:
        """Import; what does harm is remembered."""
        gc.disable()  # what nobody writes to is shared by all processes
        self._mark(phases.IMPORTS)
        process_main.learn()
        self._mark(phases.MODULES)
        self.why = self.why or self.unfit()
        base = {name for name in sys.modules if name.partition(".")[0] == "safeloader"}
        self.stamps = fork_safety.stamps(base.union(_BASE))
        gc.freeze()
        for name in modules:
            if name not in sys.modules and not self.why and _package(name) not in map(_package, self._harm):
                self._learn(name)
        sys.stdout.flush()

    def _learn(self, name: str) -> None:
        known = set(sys.modules)
        try:
            importlib.import_module(name)
            harm = ""
        except Exception as error:  # whoever needs it will be told so; the trainer tells of those that were named
            harm, self._failed[name] = "", in_one_line(error)
        except BaseException as error:
            harm = f"raises {type(error).__name__}"
        new = set(sys.modules) - known
        harm = harm or self._news() or fork_safety.fresh_generators(new)
        if harm:
            self._harm[name] = harm
        self.stamps.update(fork_safety.stamps(new))
        gc.freeze()

    def _news(self) -> str:
        """What an import left besides modules."""
        count, open_now = fork_safety.threads(), fork_safety.descriptors()
        harm = "starts a thread" if count > self._threads else fork_safety.strangers(self._own)
        self._threads = count
        self._own.update(open_now)
        return harm

    def be_template(self, control: int, lifeline: int, mark: phases.PhaseMark) -> NoReturn:
        """In a child that is to read a dataset, and fork others."""
        from safeloader.runtime.child.template_main import TemplateMain

        template = TemplateMain(control, lifeline, mark)
        template.stamps = self.stamps
        template.read()
        template.serve()


def _package(name: str) -> str:
    """The package to which a module belongs: where one of its modules does harm, most of them lead there."""
    return name.partition(".")[0]
