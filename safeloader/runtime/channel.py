"""Framed messages over one socket pair per process. The trainer's end never blocks.

A frame is eight bytes of length and a pickle. Messages are small (batches lie in leases), but nothing depends on it: a
half-written frame of a process that was killed or stopped waits in a buffer and holds nobody up.
"""

from __future__ import annotations

import array
import operator
import os
import pickle
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

from safeloader.runtime.protocol import FILES, KINDS, NUMBERS, FileQueue, Join, More

__all__ = ["Blocking", "Frames", "NonBlocking", "frame"]

_LENGTH = struct.Struct("<Q")
_HEAD = _LENGTH.size
_CHUNK = 1 << 16
_DESCRIPTORS = 200  # in one message; the kernel allows 253
_FEW_DESCRIPTORS = socket.CMSG_SPACE(16)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_ancillary = operator.itemgetter(1)  # of what ``recvmsg`` gives
_record = tuple.__new__


def _descriptors(ancillary: list[Any]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return found.tolist()


def frame(message: tuple[Any, ...]) -> bytes:
    """Serialise a message, one of ``protocol``'s records."""
    body = pickle.dumps((NUMBERS[type(message)], *message), protocol=5)
    return _LENGTH.pack(len(body)) + body


def _cut(data: bytes | bytearray) -> tuple[list[Any], int, int]:
    """The whole messages at the beginning of some bytes, where the rest begins, and how long that is to become."""
    messages: list[Any] = []
    start, end = 0, len(data)
    while end - start >= _HEAD:
        (length,) = _LENGTH.unpack_from(data, start)
        if end - start - _HEAD < length:
            return messages, start, length + _HEAD
        told = pickle.loads(memoryview(data)[start + _HEAD : start + _HEAD + length])
        messages.append(_record(KINDS[told[0]], told[1:]))
        start += _HEAD + length
    return messages, start, _HEAD


class Frames:
    """Cuts a byte stream into messages."""

    __slots__ = ("_rest", "_wanted")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = _HEAD  # bytes of a known frame; a long one is put together once, not with every read

    def feed(self, data: bytes | bytearray) -> list[Any]:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = self._rest
        messages, start, self._wanted = _cut(data)
        self._rest = bytearray(data[start:])
        return messages


class _Received(NamedTuple):
    """What came since the last whole message."""

    chunks: list[tuple[Any, ...]]  # data, ancillary data, ...
    rest: bytes = b""
    wanted: int = _HEAD
    messages: int = 0  # so far
    files: Sequence[int] = ()  # descriptors of a message that is not whole yet


class _Sending(NamedTuple):
    """Frames on their way, the number of the last, and how many bytes of them each call has sent."""

    number: Any
    data: memoryview
    sent: list[int]

    def rest(self) -> memoryview:
        return self.data[sum(self.sent) :]


_NOTHING = _Sending((), memoryview(b""), [])


class NonBlocking:
    """The trainer's end. An exception between any two of its instructions loses nothing, and sends nothing twice.

    What a system call took or gave is noted by the same call into C (``extend`` of a ``map``), all else by one store.

    Attributes:
        ended: the peer is gone.
        heard: number of the last message that was taken from those that arrived.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self.ended = False
        self._files: dict[int, FileQueue] = {}  # that came with messages which are not heard, by their numbers
        self.heard = 0
        self._received = _Received([])
        self._sending = _NOTHING
        self._backlog: deque[tuple[Any, bytes]] = deque()
        self._count = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def waits(self) -> bool:
        """True while something waits for room."""
        return bool(self._backlog) or bool(len(self._sending.rest()))

    def send(self, message: tuple[Any, ...], number: Any = None) -> bool:
        """Send now; what there is no room for waits for ``flush``, and True is returned. A peer that is gone is
        noticed elsewhere.

        Args:
            message: one of ``protocol``.
            number: sent once under this number; each must be greater than the last. None counts by itself.
        """
        if number is None:
            self._count += 1
            number = (self._count,)
        sending = self._sending
        if not self._backlog and number > sending.number and sum(sending.sent) == len(sending.data):
            data, sent = frame(message), []  # type: tuple[bytes, list[int]]
            self._sending = _Sending(number, memoryview(data), sent)
            try:
                sent.extend(map(self.socket.send, (data,)))
            except OSError:
                return self.flush()
            return sent[0] < len(data) and self.flush()
        last = self._backlog[-1][0] if self._backlog else sending.number
        if number > last:
            self._backlog.append((number, frame(message)))
        return self.flush()

    def send_descriptors(self, message: Join, descriptors: list[int]) -> None:
        """Send the first message of all, with descriptors; those that do not fit go with messages of their own.

        Raises:
            OSError: the peer is gone, or has no room.
        """
        for at in range(0, max(len(descriptors), 1), _DESCRIPTORS):
            data = frame(More() if at else message)
            sent = socket.send_fds(self.socket, [data], descriptors[at : at + _DESCRIPTORS])
            if sent < len(data):
                raise BlockingIOError("there is no room for the first message to a process")

    def flush(self) -> bool:
        """Send what waits. Returns True if something still waits."""
        backlog = self._backlog
        while True:
            sending = self._sending
            if rest := sending.rest():
                try:
                    sending.sent.extend(map(self.socket.send, (rest,)))
                except BlockingIOError:
                    return True
                except OSError:
                    backlog.clear()
                    self._sending = sending._replace(data=memoryview(b""), sent=[])
                    return False
            elif backlog and backlog[-1][0] > sending.number:
                data = b"".join([data for number, data in backlog if number > sending.number])
                self._sending = _Sending(backlog[-1][0], memoryview(data), [])
            else:
                backlog.clear()
                return False

    def receive(self) -> list[Any]:
        """Everything that has arrived; ``ended`` is set when the peer is gone."""
        messages: list[Any] = []
        self.receive_into(lambda arrived: messages.extend(message for _, message in arrived))
        return messages

    def receive_into(self, put: Callable[[list[tuple[int, Any]]], None]) -> None:
        """The same, numbered from 1 on. What was put, but not noted any more, is put again: look at ``heard``."""
        chunks = self._received.chunks
        while not self.ended:
            try:
                chunks.extend(map(self.socket.recvmsg, (_CHUNK,), (_FEW_DESCRIPTORS,), (_CLOSE_ON_EXEC,)))
            except BlockingIOError:
                break
            except OSError:
                self.ended = True
                break
            data, ancillary, *_ = chunks[-1]
            if not data:
                self.ended = True
            elif len(data) < _CHUNK and not ancillary:  # descriptors end what is read at once
                break
        if chunks:
            self._put_messages(put)

    def _put_messages(self, put: Callable[[list[tuple[int, Any]]], None]) -> None:
        chunks, rest, wanted, count, files = self._received
        if len(rest) + sum([len(chunk[0]) for chunk in chunks]) < wanted:
            return
        data = rest + b"".join([chunk[0] for chunk in chunks]) if rest or len(chunks) > 1 else chunks[0][0]
        messages, start, wanted = _cut(data)
        numbered = list(enumerate(messages, count + 1))
        if files or any(map(_ancillary, chunks)):
            files = [*files, *(number for chunk in chunks for number in _descriptors(chunk[1]))]
            files = self._hand_out(files, numbered)
        put(numbered)
        self._received = _Received([], data[start:], wanted, count + len(messages), files)

    def _hand_out(self, files: list[int], numbered: list[tuple[int, Any]]) -> list[int]:
        """Add to messages the descriptors that came with them; returns those of a message that is not whole yet."""
        for number in [number for number in self._files if number <= self.heard]:
            del self._files[number]
        for at, (number, message) in enumerate(numbered):
            if count := FILES.get(type(message), 0):
                if number not in self._files:
                    self._files[number] = FileQueue(files[:count])
                numbered[at], files = (number, message._replace(files=self._files[number])), files[count:]
        return files

    def shut(self) -> None:
        """Say that no further message will come."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        for descriptor in self._received.files:
            os.close(descriptor)
        self._files.clear()  # a message that waits to be heard keeps its own
        self._received = self._received._replace(files=())
        self.socket.close()


class Blocking:
    """The process's end: it has nothing better to do than to wait."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(True)
        self.fileno = end.fileno
        self.socket = end
        self._frames = Frames()
        self._messages: deque[Any] = deque()

    def send(self, message: tuple[Any, ...]) -> None:
        self.socket.sendall(frame(message))

    def send_descriptors(self, message: tuple[Any, ...], descriptors: list[int]) -> None:
        """Send a short message, with open files."""
        data = frame(message)
        sent = socket.send_fds(self.socket, [data], descriptors)
        self.socket.sendall(data[sent:])

    def receive_descriptors(self) -> tuple[Join, list[int]] | None:
        """The first message and its descriptors; None when the trainer closed its side."""
        message: Join | None = None
        descriptors: list[int] = []
        while message is None or len(descriptors) < message.files:
            data, received, _, _ = socket.recv_fds(self.socket, _CHUNK, _DESCRIPTORS, _CLOSE_ON_EXEC)
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

    @property
    def has_more(self) -> bool:
        """True if a message is here already."""
        return bool(self._messages)

    def receive(self) -> Any | None:
        """The next message, None when the trainer closed its side."""
        while not self._messages:
            data = self.socket.recv(_CHUNK)
            if not data:
                return None
            self._messages.extend(self._frames.feed(data))
        return self._messages.popleft()
