"""The trainer's side of a template: a process that has read one loader's dataset, from which its processes are forked.

::

    Templates(launcher, payload).begin(...) ── request ──▶ template ── fork ──▶ process, which has the dataset already
        none yet, or it is gone: a fork server forks one (requests wait in its channel while it reads)
        "no, because ...", or it was lost twice in vain: processes come of the fork server, and read for themselves

To a process that waits to be born, a template is what a fork server is (``forked.Parent``).
"""

from __future__ import annotations

import marshal
import os
import pickle
import select
import signal
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any

from safeloader.runtime import system
from safeloader.runtime.start import client
from safeloader.runtime.start.forked import Forked, Parent
from safeloader.runtime.start.spawned import LOST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safeloader.runtime.payload import Payload
    from safeloader.runtime.start.launcher import Body, Launcher
    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["Templates"]

_TRIES = 2  # templates in a row from which nobody was born: then it is no use
_END = 5.0  # seconds for a killed template to be gone


class Templates:
    """How the processes of one payload come to be.

    Args:
        launcher: where fork servers come from.
        payload: what they are given.
    """

    def __init__(self, launcher: Launcher, payload: Payload) -> None:
        self._launcher = launcher
        self._payload: Payload | None = payload
        self._template: Template | None = None
        self._in_vain = 0

    @property
    def outdated(self) -> list[str]:
        """Files that changed since a server imported them."""
        return self._launcher.outdated

    def begin(self, given: Surroundings, channel: int, stacks: int, modules: tuple[str, ...]) -> Body:
        """Start a process: see ``Launcher.begin``."""
        return Forked(self, given, channel, stacks, modules)

    def server(self, given: Surroundings) -> Parent:
        """The template, or a fork server if there is none to be had.

        Raises:
            Unavailable: not even that.
        """
        if self._payload is None or self._in_vain >= _TRIES:
            return self._launcher.server(given)
        if self._template is None or not self._template.usable():
            self._template = Template(self, self._launcher, self._payload, given)
        return self._template

    def lost(self, template: Template) -> None:
        """It forks nobody any more."""
        if not template.discarded:
            template.discarded = True
            self._in_vain += 1

    def refused(self, template: Template, why: str) -> None:
        """Processes must not be forked from it."""
        self.lost(template)
        self._in_vain = _TRIES
        if self._payload is not None:
            self._launcher.note(f"{self._payload.config.name}: each process reads the dataset for itself: {why}")

    def worked(self) -> None:
        """A process was born."""
        self._in_vain = 0

    def complain(self, why: str) -> None:
        """Processes are spawned instead."""
        self._launcher.complain(why)

    def not_imported(self, modules: dict[str, str]) -> None:
        """The fork server cannot import these modules, for these reasons."""
        self._launcher.not_imported(modules)

    def close(self) -> None:
        """No further process is needed. The template ends with the last that holds it."""
        self._template = self._payload = None


class Template:
    """One: the parent of those who are asked of it.

    Args:
        owner: told what becomes of it.
        launcher: where fork servers come from.
        payload: what it reads.
        given: what it takes over from the trainer.

    Raises:
        Unavailable: it cannot be asked for.
    """

    def __init__(self, owner: Templates, launcher: Launcher, payload: Payload, given: Surroundings) -> None:
        self.discarded = False
        self._owner = weakref.ref(owner)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            message = pickle.dumps((payload.config, payload.unshared))
            socket.send_fds(ours, [message], payload.descriptors)
            self._body = _Body(launcher, given, theirs.fileno(), nowhere)
        except OSError as error:
            ours.close()
            raise client.Unavailable(f"no template can be asked for: {error}") from error
        finally:
            theirs.close()
            os.close(nowhere)
        self._control = ours
        client.controls.add(ours)
        self._end = weakref.finalize(self, _end, self._body, ours, os.getpid())

    @property
    def pid(self) -> int:
        return self._body.pid

    @property
    def watch(self) -> int:
        """Becomes readable when there is something to ``attend`` to."""
        return self._body.pidfd

    @property
    def waiting(self) -> str:
        """How far it is, for people."""
        return f"its template has not forked it: {self._body.phase}"

    def attend(self) -> bool:
        """Hear what is said of it. False once it is gone."""
        return self._body.poll() is None

    def usable(self) -> bool:
        """True if it is there to fork processes, or is about to be."""
        return not self.discarded and self.attend() and not self._stopped()

    def _stopped(self) -> bool:
        return self.pid > 0 and system.process_state(self.pid) in "Tt"

    def ask(self, what: tuple[Any, ...], descriptors: Iterable[int]) -> None:
        """Ask for a process.

        Raises:
            OSError: it cannot be reached.
        """
        socket.send_fds(self._control, [marshal.dumps(what)], list(descriptors))

    def kill(self) -> None:
        """It is of no use. Its processes live on."""
        self.discarded = True
        self._body.send_signal(signal.SIGKILL)

    def how_it_ended(self) -> str:
        """For people; "" while it lives."""
        return "" if self.attend() else "it is gone"

    # ------------------------------------------------------------ what is told of it

    def worked(self) -> None:
        """It forked a process."""
        if (owner := self._owner()) is not None:
            owner.worked()

    def failed(self, why: str) -> None:
        """It did not fork a process that it was asked for."""
        if (owner := self._owner()) is not None:
            owner.lost(self)
        self.discarded = True

    def outdated(self) -> None:
        """What it has imported is not what lies on the disk now."""
        self.discarded = True

    def refused(self, why: str, modules: dict[str, str]) -> None:
        """It must not fork."""
        if (owner := self._owner()) is not None and not self.discarded:
            owner.refused(self, why)


class _Body(Forked):
    """The process that a template is."""

    template = True

    def __init__(self, launcher: Launcher, given: Surroundings, control: int, stacks: int) -> None:
        super().__init__(launcher, given, control, stacks, ())

    def _spawn(self, why: str) -> None:
        """There are no fork servers: nor are there templates."""
        self.returncode = LOST
        self._let_go_of_ends()


def _end(body: _Body, control: socket.socket, owner: int) -> None:
    """Nobody needs it any more."""
    if os.getpid() != owner:
        return
    control.close()
    body.poll()  # it may have been born meanwhile
    body.send_signal(signal.SIGKILL)
    poller, end = select.poll(), time.monotonic() + _END
    poller.register(body.pidfd, select.POLLIN)
    while body.poll() is None and time.monotonic() < end:
        poller.poll(100)
    body.close()
