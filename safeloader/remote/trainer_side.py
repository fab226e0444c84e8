"""A stand-in's side towards the trainer: channel, page, slots and payload are the trainer's own."""

from __future__ import annotations

import marshal
import mmap
import os
import select
import socket
from typing import TYPE_CHECKING

from safeloader.remote import wire
from safeloader.remote.glance import glance
from safeloader.remote.payloads import digest_of
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.memory.arena import Arena

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.protocol import Join

__all__ = ["TrainerSide"]

_CHUNK = 1 << 16
_MOST_DESCRIPTORS = 253
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class TrainerSide:
    """What the trainer says goes into the stream, and what comes from there to the trainer.

    Args:
        stream: to the relay.
        channel: the process's end; stays open.
        ask: sends the trainer's words on the page.

    Attributes:
        page: where the process's words are written, once it has joined a loader.
    """

    def __init__(self, stream: wire.Stream, channel: int, ask: Callable[[], None]) -> None:
        self.page: Heartbeat | None = None
        self._stream = stream
        self._ask = ask
        self._channel = socket.socket(fileno=os.dup(channel))
        self._channel.setblocking(False)
        self._arena: Arena | None = None
        self._payload: memoryview | None = None
        self._cutter = wire.Cutter()
        self._files: list[int] = []
        self._waiting = wire.Outgoing(self._channel)
        self._listens = True
        self._asked = b""

    def fileno(self) -> int:
        """The channel's."""
        return self._channel.fileno()

    @property
    def wanted(self) -> int:
        """What it is polled for; 0: nothing."""
        return (select.POLLIN if self._listens else 0) | (select.POLLOUT if self._waiting else 0)

    @property
    def waits(self) -> bool:
        """True while the trainer has not taken everything."""
        return bool(self._waiting)

    # ------------------------------------------------------------ to the trainer

    def room(self, slot: int, offset: int, length: int) -> memoryview:
        """A part of a slot."""
        assert self._arena is not None
        return self._arena.map(slot, offset + length).view()[offset : offset + length]

    def tell(self, frames: bytearray) -> None:
        """The process said this."""
        self._waiting.add(frames)

    def feed(self) -> None:
        """Hand over what there is room for: the trainer may be busy for long."""
        self._waiting.flush()

    # ------------------------------------------------------------ of the trainer

    def asks(self) -> bytes:
        """The trainer's words on the page."""
        self._asked = self.page.asks() if self.page is not None else b""
        return self._asked

    def hear(self) -> None:
        """Pass on what the trainer has said."""
        while self._listens:
            try:
                data, files, _, _ = socket.recv_fds(self._channel, _CHUNK, _MOST_DESCRIPTORS, _CLOSE_ON_EXEC)
            except BlockingIOError:
                return
            except OSError:
                data, files = b"", []
            self._files += files
            if not data:
                self._listens = False
                self._ask()
                self._stream.put(wire.SHUT)
            elif self.page is None:
                self._begin(data)
            else:
                if self.page.asks() != self._asked:  # what stood on the page before this message is known before it
                    self._ask()
                self._stream.put(wire.DATA, data)

    def _begin(self, data: bytes) -> None:
        """Before all else comes a message with descriptors: the payload, the arena, and at most a resource tracker."""
        for body in self._cutter.feed(data):
            if self.page is None:
                self._join(body)
            else:
                self._stream.put(wire.DATA, wire.FRAME_HEAD.pack(len(body)) + body)
        if self.page is not None and (rest := self._cutter.rest()):
            self._stream.put(wire.DATA, rest)

    def _join(self, body: bytes) -> None:
        message: Join = glance(body)
        payload, arena, *rest = self._files
        for descriptor in rest:
            os.close(descriptor)
        self._arena = Arena(arena)
        self.page = Heartbeat(self._arena.page(message.number))
        digest, size = digest_of(payload)
        self._payload = memoryview(mmap.mmap(payload, size, access=mmap.ACCESS_READ))
        os.close(payload)
        self._ask()
        told = digest, size, message.number, message.files, wire.FRAME_HEAD.pack(len(body)) + body
        self._stream.put(wire.JOIN, marshal.dumps(told))

    def send_payload(self) -> None:
        """It is not there yet."""
        assert self._payload is not None
        for start in range(0, len(self._payload), wire.PIECE):
            self._stream.put(wire.PAYLOAD, self._payload[start : start + wire.PIECE], offset=start)

    def close(self) -> None:
        """Let go of the channel."""
        self._channel.close()
