"""One copy of a dataset for all agents of a job on one node.

The first agent of a job on a node *keeps* what comes; the others ask it, over a socket of the abstract namespace, which
ends with it and leaves no file behind. It answers with the memory file itself: one that is whole, or, to the first who
asks, the empty one, to be written by whoever asked. Both ends prove that they know the job's key. If the keeper is
gone, the next that asks takes its place; memory that is in use stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import struct
import sys
import threading
from typing import NamedTuple

from safeloader.remote import handshake
from safeloader.remote.payloads import Payloads, Pending

__all__ = ["NodeStore"]

_PATIENCE = 10.0  # seconds for the other agent to answer
_ASK = struct.Struct("<c32sQ")  # what, digest, size
_WHOLE, _FETCH, _WAIT = b"W", b"F", b"N"
_WANTED, _DONE = b"A", b"D"


class _Asked(NamedTuple):
    """What became of a question: ``pending`` is None while another agent fetches it."""

    pending: Pending | None
    fetches: bool


class NodeStore:
    """One agent's way to what the agents of its node share.

    Args:
        key: the job's.
        own: this agent's payloads.

    Attributes:
        own: what it has, what it keeps for others among that.
    """

    def __init__(self, key: bytes, own: Payloads) -> None:
        self._key = key
        self.own = own
        self._name = b"\0safeloader-node-" + hmac.new(key, b"node", hashlib.sha256).hexdigest().encode()
        self._server: socket.socket | None = None
        self._asking: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._keeps()

    def _keeps(self) -> bool:
        """Whether this agent is the one that the others ask; it becomes that where there is none."""
        if self._server is not None or sys.platform != "linux":
            return True
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.bind(self._name)
        except OSError:
            server.close()
            return False
        server.listen(64)
        self._server = server
        threading.Thread(target=self._accept, args=(server,), name="safeloader-node", daemon=True).start()
        return True

    # ------------------------------------------------------------ asking

    def want(self, user: object, digest: str, size: int) -> tuple[Pending | None, bool]:
        """As `Payloads.want`; None for what another agent of this node fetches: ask again."""
        with self._lock:
            if self.own.has(digest) or self._keeps():
                return self.own.want(user, digest, size)
            try:
                asked = self._ask(digest, size)
            except OSError:  # the keeper is gone
                self._let_go(digest)
                return None, False
            if asked.pending is not None:
                self.own.add(user, digest, asked.pending)
            return asked

    def _ask(self, digest: str, size: int) -> _Asked:
        connection = self._asking.get(digest)
        if connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(_PATIENCE)
                connection.connect(self._name)
                handshake.connect(connection, self._key, _PATIENCE)
            except OSError:
                connection.close()
                raise
            self._asking[digest] = connection
        connection.settimeout(_PATIENCE)
        told = bytes.fromhex(digest), size
        connection.sendall(_ASK.pack(_WANTED, *told))
        answer, files, _, _ = socket.recv_fds(connection, 1, 1)
        if answer not in (_WHOLE, _FETCH):
            if answer != _WAIT:
                raise ConnectionResetError
            return _Asked(None, False)
        del self._asking[digest]  # the payload holds it from now on: as long as it is open, the keeper keeps it
        done = (lambda: connection.sendall(_ASK.pack(_DONE, *told))) if answer == _FETCH else None
        return _Asked(Pending(digest, size, files[0], answer == _WHOLE, connection, done), answer == _FETCH)

    def _let_go(self, digest: str) -> None:
        connection = self._asking.pop(digest, None)
        if connection is not None:
            connection.close()

    # ------------------------------------------------------------ answering

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = server.accept()
                threading.Thread(target=self._serve, args=(connection,), name="safeloader-node", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One agent and one payload; the connection is the user of that."""
        with connection, contextlib.suppress(OSError):
            try:
                handshake.accept(connection, self._key, _PATIENCE)
                connection.settimeout(None)
                while len(asked := connection.recv(_ASK.size, socket.MSG_WAITALL)) == _ASK.size:
                    what, digest, size = _ASK.unpack(asked)
                    pending, fetches = self.own.want(connection, digest.hex(), size)
                    if what == _DONE:
                        pending.whole = True
                    elif pending.whole or fetches:
                        socket.send_fds(connection, [_WHOLE if pending.whole else _FETCH], [pending.descriptor])
                    else:
                        connection.sendall(_WAIT)
            finally:
                self.own.let_go(connection)

    def close(self) -> None:
        """Nobody asks this agent any more."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
        for digest in list(self._asking):
            self._let_go(digest)
