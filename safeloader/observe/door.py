"""Where a running program answers who asks how it stands: ``safeloader top``.

A socket in the abstract namespace of Linux, named after user and process: it leaves no file behind, and needs no
permission but that of the same user, which the kernel vouches for on both sides. The thread that watches for stalls
waits here between two looks, so answering costs no thread, and nothing while nobody asks. Where there are no abstract
sockets, nobody is answered.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Door", "NoAnswerError", "Peer", "ask", "doors", "name_of"]

_PREFIX = "safeloader"
_SECONDS_TO_SEND = 1.0
"""Somebody who asks and does not read must not hold up the watch."""
_CREDENTIALS = struct.Struct("3i")


class Peer(NamedTuple):
    """Who is at the other end of a socket, by the kernel's word."""

    pid: int
    uid: int


class NoAnswerError(Exception):
    """A program did not say how it stands; the message says why."""


def name_of(uid: int, pid: int) -> str:
    """The address at which a program answers, without the zero byte that begins it."""
    return f"{_PREFIX}-{uid}-{pid}"


class Door:
    """What a program waits at between two looks at its loaders; made by the thread that starts the watch.

    Args:
        tell: how the program stands, fit for JSON; called when somebody asks.
    """

    def __init__(self, tell: Callable[[], dict[str, Any]]) -> None:
        self._tell = tell
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
        ready = self._poll.poll(None if seconds is None else int(seconds * 1000) + 1)
        for descriptor, _ in ready:
            if descriptor == self._woken:
                os.read(self._woken, 4096)
            else:
                self._answer()

    def _answer(self) -> None:
        try:
            assert self._listener is not None
            caller, _ = self._listener.accept()
        except OSError:
            return
        with caller:
            try:
                if _peer(caller).uid in (os.getuid(), 0):
                    caller.settimeout(_SECONDS_TO_SEND)
                    caller.sendall(json.dumps(self._tell()).encode())
            except Exception:  # whatever it is, the watch must go on; who asked sees a broken answer
                pass

    def close(self) -> None:
        """Give up what a fork has inherited: the door is its parent's."""
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


# ---------------------------------------------------------------- who asks


def doors(table: str = "/proc/net/unix") -> tuple[list[int], int]:
    """The pids of this user's programs that answer, and how many there are of other users.

    Raises:
        OSError: the system does not tell.
    """
    own: set[int] = set()
    others: set[int] = set()
    with open(table) as file:
        for line in file:
            name = line.split()[-1]
            if not name.startswith(f"@{_PREFIX}-"):
                continue
            uid, _, pid = name[len(_PREFIX) + 2 :].partition("-")
            if uid.isdecimal() and pid.isdecimal():
                (own if int(uid) == os.getuid() else others).add(int(pid))
    return sorted(own), len(others)


def ask(pid: int, seconds: float = 2.0) -> dict[str, Any]:
    """How a program stands.

    Raises:
        NoAnswerError: it is gone, another user's, or does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(seconds)
        try:
            caller.connect("\0" + name_of(os.getuid(), pid))
            peer = _peer(caller)
            if peer.uid != os.getuid():
                raise NoAnswerError(f"process {peer.pid} of another user answers for process {pid}: not believed")
            text = b"".join(iter(lambda: caller.recv(1 << 16), b""))
        except TimeoutError:
            raise NoAnswerError(
                f"process {pid} does not answer: it is stopped, or holds Python's lock in C code"
            ) from None
        except OSError:
            raise NoAnswerError(f"process {pid} does not answer: it has no safeloader loader, or has ended") from None
    try:
        told = json.loads(text)
    except ValueError:
        raise NoAnswerError(f"process {pid} broke off its answer") from None
    told["pid"] = peer.pid  # as seen from here: it may live in a container
    return dict(told)
