"""The socket on which a running program sends its status to ``safeloader top``.

It lies in the abstract namespace of Linux, named after user and process, so it leaves no file behind. Only the same
user (and root) is answered; the kernel tells who calls. The thread that watches for stalls waits on the socket between
two looks: answering needs no further thread and costs nothing while nobody asks. Callers of other users are turned
away, and only so many a second: a flood of them costs the trainer next to nothing. Where the system has no abstract
sockets, no status is sent.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GoneError", "NoAnswerError", "Peer", "StatusSocket", "ask", "listening", "name_of"]

_PREFIX = "safeloader"
_SECONDS_TO_SEND = 1.0
"""A caller that does not read must not hold up the watch."""
STRANGERS_A_SECOND = 20
"""Callers of other users that are turned away in one second; after that, no call is taken until the second is over."""
_CREDENTIALS = struct.Struct("3i")
_TIMEVAL = struct.Struct("@ll")
# Anybody may bind any bytes, line ends among them: what is no name of ours is passed over.
_ROW = re.compile(rb"^[0-9A-Fa-f]+: (?:[0-9A-Fa-f]+ +){5}[0-9]+ @%b-([0-9]{1,10})-([0-9]{1,10})$" % _PREFIX.encode())
_MOST_PID = 1 << 22  # what the kernel gives at most


class Peer(NamedTuple):
    """Who is at the other end of a socket, by the kernel's word."""

    pid: int
    uid: int


class NoAnswerError(Exception):
    """A program did not send its status; the message says why."""


class GoneError(NoAnswerError):
    """Nothing listens at a program's address."""


def name_of(uid: int, pid: int) -> str:
    """The address at which a program answers, without the zero byte that begins it."""
    return f"{_PREFIX}-{uid}-{pid}"


class StatusSocket:
    """What the watch waits on between two looks at the loaders; made by the thread that starts the watch.

    Args:
        status: returns the status of the program, fit for JSON; called for each caller that is answered.
    """

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status
        self._second = 0.0  # when the present second of counting strangers began
        self._strangers = 0  # how many of them were turned away since
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._listener = _listen()
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        if self._listener is not None:
            self._poll.register(self._listener, select.POLLIN)

    def wake(self) -> None:
        """End a wait, from any thread."""
        try:
            os.write(self._waker, b"!")
        except OSError:  # it is full: whoever waits will wake
            pass

    def wait(self, seconds: float | None) -> None:
        """Wait until woken, or for so long; answer meanwhile. May return early."""
        pause = self._pause()
        if pause:
            seconds = pause if seconds is None else min(pause, seconds)
        ready = self._poll.poll(None if seconds is None else int(seconds * 1000) + 1)
        for descriptor, _ in ready:
            if descriptor == self._woken:
                os.read(self._woken, 4096)
            else:
                self._answer()

    def _pause(self) -> float:
        """Take calls, or none for the rest of a second that had too many strangers; returns the seconds of that."""
        left = self._second + 1.0 - monotonic() if self._strangers >= STRANGERS_A_SECOND else 0.0
        if self._listener is not None:
            self._poll.modify(self._listener, 0 if left > 0 else select.POLLIN)
        return max(left, 0.0)

    def _turn_away(self) -> None:
        now = monotonic()
        if now >= self._second + 1.0:
            self._second, self._strangers = now, 0
        self._strangers += 1

    def _answer(self) -> None:
        try:
            assert self._listener is not None
            caller, _ = self._listener.accept()
        except OSError:
            return
        with caller:
            try:
                if _peer(caller).uid not in (os.getuid(), 0):
                    self._turn_away()
                    return
                caller.settimeout(_SECONDS_TO_SEND)
                caller.sendall(json.dumps(self._status()).encode())
            except Exception:  # whatever it is, the watch must go on; the caller sees a broken answer
                pass

    def close(self) -> None:
        """Close what a fork has inherited: the socket is its parent's."""
        os.close(self._woken)
        os.close(self._waker)
        if self._listener is not None:
            self._listener.close()


def _listen() -> socket.socket | None:
    if sys.platform != "linux":
        return None
    made = None
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind("\0" + name_of(os.getuid(), os.getpid()))
        made.listen(4)
        made.setblocking(False)
    except OSError:  # say, a sandbox
        if made is not None:
            made.close()
        return None
    return made


def _peer(connected: socket.socket) -> Peer:
    option = getattr(socket, "SO_PEERCRED", 17)
    pid, uid, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return Peer(pid, uid)


# ---------------------------------------------------------------- the caller's side


def listening(table: str = "/proc/net/unix") -> tuple[list[int], int]:
    """The pids of this user's programs that have a status socket, and how many there are of other users.

    Raises:
        OSError: the system does not tell.
    """
    own: set[int] = set()
    others: set[int] = set()
    with open(table, "rb") as file:
        for line in file:
            row = _ROW.match(line)
            if row and 0 < int(row[2]) <= _MOST_PID:
                (own if int(row[1]) == os.getuid() else others).add(int(row[2]))
    return sorted(own), len(others)


def ask(pid: int, seconds: float = 2.0) -> dict[str, Any]:
    """The status of a program.

    Raises:
        NoAnswerError: it has ended, is another user's, or does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            _connect(caller, "\0" + name_of(os.getuid(), pid), seconds)
            caller.settimeout(seconds)
            peer = _peer(caller)
            if peer.uid != os.getuid():
                raise NoAnswerError(f"process {peer.pid} of another user answers for process {pid}: not believed")
            text = b"".join(iter(lambda: caller.recv(1 << 16), b""))
        except (TimeoutError, BlockingIOError):
            raise NoAnswerError(
                f"process {pid} does not answer: it is stopped, or holds Python's lock in C code"
            ) from None
        except OSError:
            raise GoneError(f"process {pid} does not answer: it has no safeloader loader, or has ended") from None
    try:
        status = json.loads(text)
    except (ValueError, RecursionError):
        raise NoAnswerError(f"process {pid} broke off its answer") from None
    if not isinstance(status, dict):
        raise NoAnswerError(f"process {pid} answers something else than its status")
    status["pid"] = peer.pid  # as seen from here: it may live in a container
    return status


def _connect(caller: socket.socket, address: str, seconds: float) -> None:
    """Connect; where many wait to be taken, wait in the kernel's queue, which is fair. Python's own limit does not."""
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6)))
    caller.connect(address)
