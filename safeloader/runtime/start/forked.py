"""A process that the fork server forked, or was asked to fork: the trainer's view of it.

::

    asked ──▶ born (its pid and a pidfd came) ──▶ gone: the pidfd says so at once, the server says how
      │ the server ended, or refused
      └──▶ asked another server ──▶ ... ──▶ spawned instead

The server's end of the link hangs up when the server dies. That harms nobody who is born: the pidfd still tells of the
end, only the exit status is lost then.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any, Protocol

from safeloader.runtime import system
from safeloader.runtime.start import bootstrap, client, phases
from safeloader.runtime.start.spawned import LOST, Spawned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["BORN", "EXITED", "REFUSED", "Forked", "Parent", "tell"]

BORN, EXITED, REFUSED = range(3)
_STATUS_DELAY = 1.0  # seconds between an exit and the server's word of it
_MESSAGE = 1 << 16
_STREAMS = 1, 2


def tell(link: socket.socket, what: tuple[Any, ...], *descriptors: int) -> None:
    """Tell the trainer; one that does not want to hear of it has closed its end."""
    try:
        socket.send_fds(link, [marshal.dumps(what)], descriptors)
    except OSError:
        pass


class Parent(Protocol):
    """Who forks processes on request: a `client.ForkServer`, or a `template.Template`.

    Attributes:
        watch: becomes readable when there is something to ``attend`` to; -1: never.
    """

    @property
    def watch(self) -> int: ...
    @property
    def waiting(self) -> str: ...
    def attend(self) -> bool: ...
    def ask(self, what: tuple[Any, ...], descriptors: Iterable[int]) -> None: ...
    def how_it_ended(self) -> str: ...
    def kill(self) -> None: ...
    def worked(self) -> None: ...
    def failed(self, why: str) -> None: ...
    def outdated(self) -> None: ...
    def refused(self, why: str, modules: dict[str, str]) -> None: ...


class Servers(Protocol):
    """Where parents come from, and who is told what of them: a `launcher.Launcher`, or ``template.Templates``."""

    @property
    def outdated(self) -> list[str]: ...

    def server(self, given: Surroundings) -> Parent:
        """The server for these surroundings.

        Raises:
            Unavailable: there is none to be had.
        """

    def complain(self, why: str) -> None:
        """Processes are spawned instead."""

    def not_imported(self, modules: dict[str, str]) -> None:
        """The server cannot import these modules, for these reasons."""


class Forked:
    """A process that is no child of the trainer.

    Args:
        launcher: where servers come from.
        given: what it takes over from the trainer.
        channel: the process's end.
        stacks: where its Python stacks are written.
        modules: what it imports before it says that it is ready.

    Attributes:
        pid: 0 until it is known.
        pidfd: becomes readable when there is something to ``poll`` for.
        returncode: as ``subprocess``'s; ``LOST`` where nobody knows.
        why_lost: what is known then, for people.
    """

    template = False  # it is to fork others
    fell_back = False
    host = ""

    def __init__(
        self, launcher: Servers, given: Surroundings, channel: int, stacks: int, modules: tuple[str, ...]
    ) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.why_lost = "how is not known, as its fork server was gone"
        self._launcher = launcher
        self._given = given
        self._modules = modules
        self._ends = [os.dup(channel), os.dup(stacks)]  # kept until somebody has them
        self._watch = select.epoll()
        self.pidfd = self._watch.fileno()
        self._exit = -1  # the real pidfd
        self._server: Parent | None = None
        self._watched = -1
        self._link: socket.socket | None = None
        self._instead: Spawned | None = None
        self._overdue = False
        self._row = 0
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ beginnings

    def _begin(self) -> None:
        while self._link is None:
            try:
                self._server = self._launcher.server(self._given)
            except client.Unavailable as reason:
                self._spawn(str(reason))
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    self._ask(self._server, theirs.fileno())
                except OSError as error:
                    ours.close()
                    self._server.failed(self._server.how_it_ended() or f"it cannot be reached: {error}")
                    continue
            ours.setblocking(False)
            self._link = ours
            self._watch.register(ours, select.EPOLLIN)
            self._watched = self._server.watch
            if self._watched >= 0:
                self._watch.register(self._watched, select.EPOLLIN)

    def _ask(self, server: Parent, link: int) -> None:
        _, self._row = phases.row()
        told = bootstrap.write(self._given, self._row, self._modules, self.template)
        try:
            server.ask(_STREAMS, [link, told, *self._ends, *_STREAMS])
        finally:
            os.close(told)

    def _spawn(self, why: str) -> None:
        self._launcher.complain(why)
        self._server = None
        channel, stacks = self._ends
        self._instead = Spawned(self._given, channel, stacks, self._modules)
        self.pid = self._instead.pid
        if self._instead.pidfd >= 0:
            self._watch.register(self._instead.pidfd, select.EPOLLIN)
        self._let_go_of_ends()

    def _let_go_of_ends(self) -> None:
        while self._ends:
            os.close(self._ends.pop())

    # ------------------------------------------------------------ what the server says

    def _hear(self) -> None:
        if self._watched >= 0 and self._server is not None and not self._server.attend():
            self._look_away()  # what was asked of it hangs up
        while self._link is not None:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._link, _MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._hung_up()
                return
            kind, *told = marshal.loads(data)
            if kind == BORN:
                self._born(descriptors[0], *told)
            elif kind == EXITED:
                self.returncode = told[0]
            else:
                self._refused(*told)

    def _born(self, pidfd: int, pid: int, failed: dict[str, str] | None = None) -> None:
        self._look_away()
        if self._server is not None:
            self._server.worked()
        self._launcher.not_imported(failed or {})
        self.pid, self._exit = pid, pidfd
        self._watch.register(pidfd, select.EPOLLIN)
        self._let_go_of_ends()

    def _refused(self, why: str, modules: dict[str, str], files: list[str]) -> None:
        assert self._server is not None
        if files:
            self._launcher.outdated.extend(files)
            self._server.outdated()
        else:
            self._server.refused(why, modules)
        self._drop_link()
        self._begin_again()

    def _hung_up(self) -> None:
        """The server is gone. Who is not born yet is asked for elsewhere."""
        self._drop_link()
        if self.pid or self.returncode is not None or self._server is None:
            return
        self._server.failed(self._server.how_it_ended() or "it hung up")
        self._begin_again()

    def _begin_again(self) -> None:
        try:
            self._begin()
        except OSError as error:
            self.returncode, self.why_lost = LOST, str(error)

    def _look_away(self) -> None:
        """What becomes of the parent does not matter here any more."""
        if self._watched >= 0:
            with contextlib.suppress(OSError):
                self._watch.unregister(self._watched)
            self._watched = -1

    def _drop_link(self) -> None:
        self._look_away()
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._watch.unregister(self._link)
            self._link.close()
            self._link = None

    # ------------------------------------------------------------ as subprocess.Popen

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it lives, or is still to be born."""
        self._hear()
        instead = self._instead
        if instead is not None:
            return instead.poll()
        if self.returncode is None and self._exit >= 0 and _readable(self._exit, 0.0):
            self._await_status()
        return self.returncode

    def settle(self) -> None:
        """It spoke, so it is born: know its pid, even if its first word came before the server's."""
        if not self.pid and self._link is not None and _readable(self._link.fileno(), _STATUS_DELAY):
            self._hear()

    def _await_status(self) -> None:
        """The kernel confirms the exit; the server, which does nothing else, says how within microseconds."""
        if self._link is not None and _readable(self._link.fileno(), _STATUS_DELAY):
            self._hear()
        if self.returncode is None:
            self.returncode = LOST

    @property
    def phase(self) -> str:
        """How far its start is, for people."""
        if self._instead is not None:
            return self._instead.phase
        if self.pid or self._server is None:
            return phases.WORDS[phases.read(self._row)]
        return self._server.waiting

    def send_signal(self, number: int) -> None:
        if self._instead is not None:
            self._instead.send_signal(number)
        elif number == system.STACK_SIGNAL and self.pid and phases.read(self._row) == phases.ASKED:
            return  # it would end it
        elif self._exit >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._exit, number)
        elif number == signal.SIGKILL and self.returncode is None:
            self._cancel()
        else:  # somebody wants to see what keeps it
            self._overdue = True

    def _cancel(self) -> None:
        """It is not born yet, and need not be. Should it be by now, it finds its channel closed."""
        self.returncode = -signal.SIGKILL
        if self._overdue and self._server is not None:
            self._server.failed("it did not fork a process in time")
            self._server.kill()
        if self._link is not None:
            self._link.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for its end, and tells the server

    def forfeited(self) -> bool:
        """It is lost alone."""
        return False

    def close(self) -> None:
        """It is gone, or abandoned."""
        self._drop_link()
        self._let_go_of_ends()
        if self._instead is not None:
            self._instead.close()
        if self._exit >= 0:
            os.close(self._exit)
            self._exit = -1
        self._watch.close()
        self.pidfd = -1
        self._server = None


def _readable(descriptor: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
