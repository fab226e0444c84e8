"""Framed messages over one socket pair per process. The trainer's end never blocks.

A frame is eight bytes of length and a pickle. Messages are small (batches lie in leases), but nothing depends on it: a
half-written frame of a process that was killed or stopped waits in a buffer and holds nobody up.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections import deque
from typing import Any

__all__ = ["Blocking", "Frames", "NonBlocking", "frame"]

_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 16
_DESCRIPTORS = 200  # in one message; the kernel allows 253


def frame(message: object) -> bytes:
    """Serialise a message of plain values."""
    body = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into messages."""

    __slots__ = ("_missing", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._missing = 0  # bytes of a known frame; a long one is put together once, not with every read

    def feed(self, data: bytes | bytearray) -> list[Any]:
        if self._rest:
            self._rest += data
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = self._rest
        self._missing = 0
        messages, start, end = [], 0, len(data)
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            start += _LENGTH.size
            if end - start < length:
                self._missing = length - (end - start)
                start -= _LENGTH.size
                break
            messages.append(pickle.loads(memoryview(data)[start : start + length]))
            start += length
        self._rest = bytearray(data[start:])
        return messages


class NonBlocking:
    """The trainer's end."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self.ended = False
        self._frames = Frames()
        self._backlog: deque[memoryview] = deque()

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def waits(self) -> bool:
        """True while something waits for room."""
        return bool(self._backlog)

    def send(self, message: object) -> bool:
        """Send now; what there is no room for waits for ``flush``, and True is returned. A peer that is gone is
        noticed elsewhere."""
        self._backlog.append(memoryview(frame(message)))
        return self.flush()

    def send_descriptors(self, message: object, more: object, descriptors: list[int]) -> None:
        """Send the first message of all, with descriptors; those that do not fit go with messages ``more``.

        Raises:
            OSError: the peer is gone, or has no room.
        """
        for at in range(0, max(len(descriptors), 1), _DESCRIPTORS):
            data = frame(more if at else message)
            sent = socket.send_fds(self.socket, [data], descriptors[at : at + _DESCRIPTORS])
            if sent < len(data):
                raise BlockingIOError("there is no room for the first message to a process")

    def flush(self) -> bool:
        """Send what waits. Returns True if something still waits."""
        while self._backlog:
            data = self._backlog[0]
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                return True
            except OSError:
                self._backlog.clear()
                return False
            if sent == len(data):
                self._backlog.popleft()
            else:
                self._backlog[0] = data[sent:]
        return False

    def receive(self) -> list[Any]:
        """Everything that has arrived; ``ended`` is set when the peer is gone."""
        messages: list[Any] = []
        while True:
            try:
                data = self.socket.recv(_CHUNK)
            except BlockingIOError:
                return messages
            except OSError:
                data = b""
            if not data:
                self.ended = True
                return messages
            messages += self._frames.feed(data)
            if len(data) < _CHUNK:
                return messages

    def shut(self) -> None:
        """Say that no further message will come."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self.socket.close()


class Blocking:
    """The process's end: it has nothing better to do than to wait."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(True)
        self.socket = end
        self._frames = Frames()
        self._messages: deque[Any] = deque()

    def send(self, message: object) -> None:
        self.socket.sendall(frame(message))

    def receive_descriptors(self) -> tuple[Any, list[int]] | None:
        """The first message and its descriptors (how many: its last part); None when the trainer closed its side."""
        message, descriptors = None, []
        while message is None or len(descriptors) < message[-1]:
            flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            data, received, _, _ = socket.recv_fds(self.socket, _CHUNK, _DESCRIPTORS, flags)
            if not data:
                return None
            descriptors += received
            self._messages.extend(self._frames.feed(data))
            if message is None and self._messages:
                message = self._messages.popleft()
        return message, descriptors

    def arrived(self) -> tuple[Any, ...]:
        """The messages that are there and were not received yet, in order; waits for none."""
        try:
            while data := self.socket.recv(_CHUNK, socket.MSG_DONTWAIT):
                self._messages.extend(self._frames.feed(data))
        except OSError:  # nothing more now; if the peer is gone, receive() sees it
            pass
        return tuple(self._messages)

    def receive(self) -> Any | None:
        """The next message, None when the trainer closed its side."""
        while not self._messages:
            data = self.socket.recv(_CHUNK)
            if not data:
                return None
            self._messages.extend(self._frames.feed(data))
        return self._messages.popleft()
