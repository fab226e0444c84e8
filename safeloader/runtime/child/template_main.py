"""The template of a loader's processes: a fork of the fork server that reads the dataset once, and is forked for each.

::

    fork server ── fork ──▶ template: reads dataset and functions ── fork ──▶ process: its first worker takes them
                                                                  ── fork ──▶ process ...

What the processes only read stays one memory. They differ in nothing from processes that read their own copy: where
what rebuilds the objects does something that would not be the same in each (``per_process``), starts a thread, opens a
file, or makes a random generator, nobody is forked from here, and each process reads for itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import socket
import sys
from typing import TYPE_CHECKING

from safeloader.runtime.child import birth, prepared, process_main
from safeloader.runtime.child.main_script import Script
from safeloader.runtime.child.per_process import Asked
from safeloader.runtime.payload import open_parts, open_script
from safeloader.runtime.shadow.fork_fitness import strangers_children
from safeloader.runtime.start import fork_safety, phases
from safeloader.runtime.start.forking import Forking

if TYPE_CHECKING:
    from safeloader.runtime.payload import HostConfig, Parts

__all__ = ["TemplateMain"]

_MESSAGE = 1 << 17
_MOST = 253  # descriptors in a message (SCM_MAX_FD)
_IN_MEMORY = ("/dev/shm/", "/memfd:")  # what is mapped, not read from a position


class TemplateMain(Forking):
    """Reads, and forks."""

    def read(self) -> None:
        """Rebuild what the first message names; if processes must not be forked then, remember why."""
        self._mark(phases.READS)
        data, given, _, _ = socket.recv_fds(self._control, _MESSAGE, _MOST, socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        if birth.ended(self._control):  # nobody needs it any more
            os._exit(0)
        config, unshared = pickle.loads(data)
        process_main.introduce(config, "safeloader-template")
        why = self._read(config, given, shares=len(given) > unshared)
        self.why = f"reading it {why}" if why else ""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it has to reap, whether the trainer wants to or not
        for stream in (sys.stdout, sys.stderr):  # else each process would write what is waiting there
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()

    def _read(self, config: HostConfig, given: list[int], *, shares: bool) -> str:
        payload, *inherited = given
        known, before = set(sys.modules), set(fork_safety.descriptors()) - set(given)
        asked = Asked(shares)
        try:
            with asked:
                script = Script(open_script(payload))
                script.be_main()
                parts = open_parts(payload, inherited)
        except BaseException as error:  # each process finds that for itself, and says so
            return f"fails ({type(error).__name__})"
        new = set(sys.modules) - known
        why = asked.what or self._left_behind(parts, new, given)
        self.stamps |= fork_safety.stamps(new)
        self._own |= set(fork_safety.descriptors())
        self._kept = set(fork_safety.descriptors()) - before
        status = os.fstat(payload)
        prepared.put(prepared.Prepared((status.st_dev, status.st_ino), script, parts, frozenset(self._kept)))
        gc.collect()
        gc.freeze()
        return why

    def _left_behind(self, parts: Parts, modules: set[str], given: list[int]) -> str:
        """What reading left that processes must not share; "" if nothing is."""
        if parts.opened:
            return "opens files, which each process does for itself"
        if fork_safety.threads() > 1:
            return "starts a thread"
        shared = {fork_safety.identity(number) for number in given}
        fine = {
            number
            for number, target in fork_safety.descriptors().items()
            if target.startswith(_IN_MEMORY) or fork_safety.identity(number) in shared
        }
        return (
            fork_safety.strangers(self._own | fine)
            or fork_safety.fresh_generators(modules, besides=parts.generators)
            or ("starts a program" if strangers_children([]) else "")
        )
