"""Records on the stream between a stand-in and a relay: a head, and so many bytes. Neither end ever blocks.

What a record means is said beside its number. Times are seconds of ``time.monotonic`` on the host that says them.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FRAME_HEAD", "Cutter", "Outgoing", "Receiver", "Stream"]

# From a stand-in.
START = 1  # what the process takes over, and what its host is compared with (marshal)
JOIN = 2  # the payload's hash and size, number, count of descriptors, the frame itself (marshal)
PAYLOAD = 3  # a part of the payload, at ``offset``
DATA = 4  # bytes of the trainer's side of the channel
SHUT = 5  # the trainer closed that side
ASKS = 6  # the trainer's words on the page, the time, and what the process's clock lacks; answered by SAYS
STACKS_WANTED = 7
# From a relay.
STARTED = 20  # (host, pid, paths that are not there) (marshal)
REFUSED = 21  # why this host is not used (text)
NEED = 22  # the payload is not here
SAYS = 23  # the process's words on the page, its state, how far it is, the time of ASKS, the time here
BYTES = 24  # a part of the batch in slot ``slot``, at ``offset``
FRAMES = 25  # bytes of the process's side of the channel: whole frames
STACKS = 26  # Python stacks
EXIT = 27  # it ended, with this exit code (text)

FRAME_HEAD = struct.Struct("<Q")
PIECE = 1 << 20  # bytes of one record; words on the page come between two
_HEAD = struct.Struct("<BIQQ")  # kind, slot, offset, length
_AT_ONCE = 16  # buffers for one system call
_TCP_RTO_MAX_MS = 44
_SEND_AGAIN = 1000  # milliseconds at most until TCP tries a link that is cut once more; else it doubles each time
_SMALL = 1 << 12  # bytes that are copied behind their head
_LARGEST = 1 << 31  # bytes of a record that is not known to be larger


class Receiver(Protocol):
    """Who gets the records of a stream."""

    def room(self, slot: int, offset: int, length: int) -> memoryview:
        """Where a part of a batch goes."""

    def take(self, kind: int, offset: int, data: bytearray) -> None:
        """A record has come. Of a part of a batch, the bytes are where they go already."""


class _Queued:
    """A record on its way out."""

    __slots__ = ("buffers", "done")

    def __init__(self, buffers: list[memoryview], done: Callable[[], None] | None) -> None:
        self.buffers = buffers
        self.done = done


class Stream:
    """One end.

    Args:
        connection: a TCP connection, or an encrypted one (`tls`); non-blocking from now on.

    Attributes:
        ended: the other end is gone.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # Linux before 6.15
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _SEND_AGAIN)
        self.socket = connection
        self.ended = False
        self._pending: Callable[[], int] | None = getattr(connection, "pending", None)  # of an encrypted one
        self._blocked: tuple[type[Exception], ...] = (BlockingIOError,)
        if self._pending is not None:
            from ssl import SSLWantReadError, SSLWantWriteError

            self._blocked = SSLWantReadError, SSLWantWriteError
        self._queue: deque[_Queued] = deque()
        self._begun = False  # the first record in the queue is on its way
        self._head = bytearray(_HEAD.size)
        self._into = memoryview(self._head)
        self._record: tuple[int, int, bytearray] | None = None

    def fileno(self) -> int:
        """The connection's."""
        return self.socket.fileno()

    @property
    def wanted(self) -> int:
        """What it is polled for."""
        return select.POLLIN | (select.POLLOUT if self._queue else 0)

    @property
    def waits(self) -> bool:
        """True while something waits for room."""
        return bool(self._queue)

    # ------------------------------------------------------------ out

    def put(
        self,
        kind: int,
        data: bytes | memoryview = b"",
        slot: int = 0,
        offset: int = 0,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Send a record as soon as there is room.

        Args:
            kind: what it means.
            data: its content.
            slot: whose batch it is a part of.
            offset: which part.
            done: called when its last byte is with the system.
        """
        head = _HEAD.pack(kind, slot, offset, len(data))
        if len(data) <= _SMALL:
            self._queue.append(_Queued([memoryview(head + data)], done))
        else:
            self._queue.append(_Queued([memoryview(head), memoryview(data).cast("B")], done))

    def put_next(self, kind: int, data: bytes) -> None:
        """The same, before all that waits."""
        record = _Queued([memoryview(_HEAD.pack(kind, 0, 0, len(data)) + data)], None)
        self._queue.insert(1 if self._begun else 0, record)

    def flush(self) -> None:
        """Send what there is room for."""
        while self._queue and not self.ended:
            try:
                sent = self._send()
            except self._blocked:
                self._begun = self._begun or self._pending is not None  # a part of it is encrypted: it has to be next
                return
            except OSError:
                self.ended = True
                return
            self._sent(sent)

    def _send(self) -> int:
        if self._pending is not None:
            return self.socket.send(self._queue[0].buffers[0])
        records = itertools.islice(self._queue, _AT_ONCE // 2)
        return self.socket.sendmsg([buffer for record in records for buffer in record.buffers])

    def _sent(self, count: int) -> None:
        while count:
            buffers = self._queue[0].buffers
            if count < len(buffers[0]):
                buffers[0] = buffers[0][count:]
                self._begun = True
                return
            count -= len(buffers.pop(0))
            self._begun = bool(buffers)
            if not buffers and (done := self._queue.popleft().done) is not None:
                done()

    # ------------------------------------------------------------ in

    def receive(self, receiver: Receiver) -> int:
        """Take what has come, at most a few pieces; returns how many bytes that was."""
        count = 0
        while not self.ended and (count < 4 * PIECE or (self._pending is not None and self._pending())):
            try:
                received = self.socket.recv_into(self._into)
            except self._blocked:
                break
            except OSError:
                received = 0
            if not received:
                self.ended = True
                break
            count += received
            self._into = self._into[received:]
            if not self._into:
                self._whole(receiver)
        return count

    def _whole(self, receiver: Receiver) -> None:
        """A head is whole, or a record."""
        if self._record is None:
            kind, slot, offset, length = _HEAD.unpack(self._head)
            if length > _LARGEST:
                self.ended = True
                return
            body = bytearray(0 if kind == BYTES else length)
            self._record = kind, offset, body
            self._into = receiver.room(slot, offset, length) if kind == BYTES else memoryview(body)
            if self._into:
                return
        kind, offset, body = self._record
        self._record, self._into = None, memoryview(self._head)
        receiver.take(kind, offset, body)

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


class Outgoing:
    """Bytes that wait for room in a channel that does not block."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: deque[memoryview] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, data: bytes | bytearray) -> None:
        """Send this after all else."""
        self._waiting.append(memoryview(data))

    def flush(self) -> bool:
        """Send what there is room for. False if something waits; where nobody listens any more, nothing does."""
        while self._waiting:
            try:
                sent = self._channel.send(self._waiting[0])
            except BlockingIOError:
                return False
            except OSError:
                self._waiting.clear()
                return True
            if sent < len(self._waiting[0]):
                self._waiting[0] = self._waiting[0][sent:]
            else:
                self._waiting.popleft()
        return True


class Cutter:
    """Cuts the bytes of a channel into frames, without reading them."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """The bodies of those frames that are whole now."""
        self._rest += data
        found, at = [], 0
        while len(self._rest) - at >= FRAME_HEAD.size:
            (length,) = FRAME_HEAD.unpack_from(self._rest, at)
            end = at + FRAME_HEAD.size + length
            if end > len(self._rest):
                break
            found.append(bytes(self._rest[at + FRAME_HEAD.size : end]))
            at = end
        del self._rest[:at]
        return found

    def rest(self) -> bytes:
        """What is left over; it is forgotten here."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest
