"""Messages that carry open files: how a process of a pool gets what belongs to a loader that came later.

A stream socket keeps files with the first byte that they were sent with, in order, so they are counted off message
by message.
"""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING, Any

from safeloader.runtime.channel import Frames, frame
from safeloader.runtime.protocol import Part

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Receiver", "hand_over"]

_AT_ONCE = 200  # Linux takes 253 in one message
_CHUNK = 1 << 16


def hand_over(end: socket.socket, message: object, descriptors: Sequence[int]) -> None:
    """Send a small message and open files; never waits.

    Raises:
        OSError: the peer is gone, or does not read.
    """
    pieces = [descriptors[at : at + _AT_ONCE] for at in range(0, len(descriptors), _AT_ONCE)] or [()]
    for number, piece in enumerate(pieces, 1):
        data = frame(Part(len(piece), message if number == len(pieces) else None))
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", piece))] if piece else []
        if end.sendmsg([data], files, socket.MSG_DONTWAIT) < len(data):
            raise BlockingIOError("there is no room for a message to a process of the pool")


class Receiver:
    """The process's end.

    Args:
        end: a socket; only the descriptors of what was received belong to whoever asks.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.ended = False
        self._frames = Frames()
        self._files: list[int] = []
        self._collected: list[int] = []

    def receive(self) -> list[tuple[Any, list[int]]]:
        """Wait for the next messages, each with its open files; ``ended`` is set when the trainer closed its side."""
        data, ancillary, _, _ = self.socket.recvmsg(_CHUNK, socket.CMSG_SPACE(4 * _AT_ONCE))
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files = array.array("i")
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
                for file in files:
                    os.set_inheritable(file, False)
                self._files.extend(files)
        self.ended = not data
        received = []
        for count, message in self._frames.feed(data):
            self._collected += self._files[:count]
            del self._files[:count]
            if message is not None:
                received.append((message, self._collected))
                self._collected = []
        return received
