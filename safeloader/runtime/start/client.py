"""The trainer's side of the fork server: one a trainer, shared by its loaders, gone with the last of them."""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import subprocess
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from safeloader.runtime import system
from safeloader.runtime.start import bootstrap, phases
from safeloader.runtime.start.parent_watch import lifeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["ForkServer", "Unavailable", "controls", "obtain"]

_MOST_HARMED = 3  # servers in a row that had imported what does harm: then it is no use either
_TRIES = 2  # servers in a row that forked nothing: then it is no use
_PAUSE = 60.0  # seconds until it may be of use again
_END = 5.0  # seconds for a killed server to be gone


class Unavailable(Exception):
    """There is no fork server to be had; the text says why."""


class ForkServer:
    """A fresh interpreter that has imported torch and more, and forks a process for each request.

    It lives as long as somebody holds this object: the loaders that may need it again, and its processes.

    Args:
        modules: what it imports besides.
        accelerators: whether devices stay visible in it.
        given: what it takes over from the trainer, and its processes from it.

    Raises:
        OSError: the system cannot start another process.
    """

    watch = -1  # there is nothing to attend to

    def __init__(self, modules: tuple[str, ...], accelerators: bool, given: Surroundings) -> None:
        self.discarded = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        starts, self._row = phases.row()
        try:
            descriptors = [theirs.fileno(), lifeline(), starts]
            self._popen = bootstrap.launch("runtime.start.server", given, descriptors, self._row, modules, accelerators)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._control = ours
        controls.add(ours)
        self._end = weakref.finalize(self, _end, self._popen, ours, os.getpid())

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def waiting(self) -> str:
        """How far its start is, for people."""
        phase = "it is stopped" if self.stopped() else phases.WORDS[phases.read(self._row)]
        return f"its fork server has not forked it: {phase}"

    def usable(self) -> bool:
        """True if it is there to fork processes."""
        return not self.discarded and self._popen.poll() is None and not self.stopped()

    def stopped(self) -> bool:
        """True if somebody stopped it (SIGSTOP)."""
        return system.process_state(self._popen.pid) in "Tt"

    def ask(self, what: tuple[Any, ...], descriptors: Iterable[int]) -> None:
        """Ask for a process.

        Raises:
            OSError: it cannot be reached.
        """
        socket.send_fds(self._control, [marshal.dumps(what)], list(descriptors))

    def attend(self) -> bool:
        """Nothing is said of it; who waits for a process sees its end."""
        return True

    def kill(self) -> None:
        """It is of no use to anybody. Its processes live on."""
        self.discarded = True
        self._popen.kill()

    def how_it_ended(self) -> str:
        """For people; "" while it lives."""
        code = self._popen.poll()
        return "" if code is None else f"it ended with exit code {code}" if code >= 0 else f"signal {-code} ended it"

    # ------------------------------------------------------------ what is told of it

    def worked(self) -> None:
        """It forked a process."""
        _trainer.in_vain = _trainer.harms = 0

    def failed(self, why: str) -> None:
        """It did not fork a process that it was asked for. Counts once a server."""
        _failed(self, why)

    def outdated(self) -> None:
        """What it has imported is not what lies on the disk now."""
        self.discarded = True

    def refused(self, why: str, modules: dict[str, str]) -> None:
        """It must not fork. If ``modules`` are the reason, they must not be imported in a server: processes do so."""
        if modules:
            _harmful(self, modules)
        else:
            _failed(self, why)


def _end(popen: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """It has no children any more: whoever held the server's last process is gone."""
    if os.getpid() != owner:
        return
    control.close()
    popen.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(_END)


# ---------------------------------------------------------------- the one server


class _Trainer:
    """What this trainer knows of fork servers."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.current: weakref.WeakValueDictionary[bytes, ForkServer] = weakref.WeakValueDictionary()  # by surroundings
        self.modules: set[str] = set()  # what any loader would like to have imported
        self.harmful: dict[str, str] = {}  # packages of which none must be, and why
        self.harms = 0  # servers in a row that had imported such a module
        self.in_vain = 0  # servers in a row that forked nothing
        self.not_before = 0.0  # when it is tried again
        self.why = ""


_trainer = _Trainer()
controls: weakref.WeakSet[socket.socket] = weakref.WeakSet()
"""Of this trainer's servers and templates."""


def obtain(modules: Iterable[str], accelerators: bool, given: Surroundings) -> ForkServer:
    """The server that is there for these surroundings, or a new one.

    Raises:
        Unavailable: none can be started, or the last ones could not do it.
    """
    with _trainer.lock:
        _trainer.modules.update(modules)
        key = marshal.dumps((accelerators, given.of_server), 2)  # without references: equal values, equal bytes
        server = _trainer.current.get(key)
        if server is not None and server.usable():
            return server
        if server is not None and server.stopped():
            server.kill()
        if time.monotonic() < _trainer.not_before:
            if _trainer.in_vain >= _TRIES or _trainer.harms >= _MOST_HARMED:
                raise Unavailable(_trainer.why)
        else:
            _trainer.harms = 0
        allowed = [name for name in sorted(_trainer.modules) if name.partition(".")[0] not in _trainer.harmful]
        try:
            server = ForkServer(tuple(allowed), accelerators, given)
        except OSError as error:
            raise Unavailable(f"it cannot be started: {error}") from error
        _trainer.current[key] = server
        return server


def _failed(server: ForkServer, why: str) -> None:
    with _trainer.lock:
        if not server.discarded:
            server.discarded = True
            _trainer.in_vain += 1
            _trainer.not_before = time.monotonic() + _PAUSE
            _trainer.why = why


def _harmful(server: ForkServer, modules: dict[str, str]) -> None:
    with _trainer.lock:
        _trainer.harmful.update({name.partition(".")[0]: why for name, why in modules.items()})
        if not server.discarded:
            server.discarded = True
            _trainer.harms += 1
            _trainer.not_before = time.monotonic() + _PAUSE
            _trainer.why = (
                f"{_trainer.harms} servers in a row had to be given up, since what they imported does more than define "
                f"things: {'; '.join(f'{name} {why}' for name, why in sorted(_trainer.harmful.items()))}"
            )


def _forget() -> None:
    """A fork of the trainer asks no server of its parent."""
    global _trainer  # noqa: PLW0603
    _trainer = _Trainer()
    for control in list(controls):
        control.close()


os.register_at_fork(after_in_child=_forget)
