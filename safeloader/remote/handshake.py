"""Both ends of a connection prove that they know the job's key, before anything that comes from the other is read.

Each says a random number, and then the HMAC of both numbers. All of it is bytes of a fixed length, and nothing is
unpickled. The connecting end proves itself first: an agent answers nothing to somebody who does not know the key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

__all__ = ["NotProved", "accept", "connect"]

_GREETING = b"SLhosts1"
_RANDOM = 32
_PROOF = hashlib.sha256().digest_size


class NotProved(OSError):
    """The other end does not know the key, or does not speak this protocol."""


def connect(connection: socket.socket, key: bytes, seconds: float, binding: bytes = b"") -> None:
    """A stand-in's side.

    Args:
        connection: to an agent.
        key: the job's.
        seconds: how long it may take.
        binding: what both ends know the connection by, if it is encrypted: a proof is worth nothing in another one.

    Raises:
        OSError: the other end is gone, is silent, or does not know the key (`NotProved`).
    """
    end = time.monotonic() + seconds
    own = os.urandom(_RANDOM)
    connection.sendall(_GREETING + own)
    other = _number(connection, end)
    connection.sendall(_proof(key, b"trainer", own, other, binding))
    _check(connection, end, _proof(key, b"agent", own, other, binding))


def accept(connection: socket.socket, key: bytes, seconds: float, binding: bytes = b"") -> None:
    """An agent's side; arguments as for ``connect``.

    Raises:
        OSError: the other end is gone, is silent, or does not know the key (`NotProved`).
    """
    end = time.monotonic() + seconds
    own = os.urandom(_RANDOM)
    other = _number(connection, end)
    connection.sendall(_GREETING + own)
    _check(connection, end, _proof(key, b"trainer", other, own, binding))
    connection.sendall(_proof(key, b"agent", other, own, binding))


def _proof(key: bytes, who: bytes, connecting: bytes, accepting: bytes, binding: bytes) -> bytes:
    return hmac.new(key, who + connecting + accepting + binding, hashlib.sha256).digest()


def _check(connection: socket.socket, end: float, expected: bytes) -> None:
    if not hmac.compare_digest(_exactly(connection, _PROOF, end), expected):
        raise NotProved("the other end does not know the key of this job")


def _number(connection: socket.socket, end: float) -> bytes:
    said = _exactly(connection, len(_GREETING) + _RANDOM, end)
    if said[: len(_GREETING)] != _GREETING:
        raise NotProved("the other end does not speak this version's protocol")
    return said[len(_GREETING) :]


def _exactly(connection: socket.socket, count: int, end: float) -> bytes:
    """So many bytes, until then; not one more is read."""
    found = b""
    while len(found) < count:
        connection.settimeout(max(end - time.monotonic(), 0.001))
        data = connection.recv(count - len(found))
        if not data:
            raise NotProved("the other end closed the connection before it had proved itself")
        found += data
    return found
