"""Plain TCP between two programs, from shared memory into shared memory: what a stream could reach at best.

As many pieces of memory are in use in turns as a loader's process and its trainer have slots.
"""

from __future__ import annotations

import mmap
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.hosts.network import INSIDE, THERE

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Plain"]

_PIECES = 5


class _Pieces:
    def __init__(self, size: int) -> None:
        step = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = memoryview(mmap.mmap(-1, _PIECES * step))
        memory[:] = b"\1" * len(memory)
        self._pieces = [memory[start : start + size] for start in range(0, len(memory), step)]

    def next(self) -> memoryview:
        self._pieces.append(self._pieces.pop(0))
        return self._pieces[-1]


class Plain:
    """Receives batches of so many bytes from a program on the other host.

    Attributes:
        pid: of that program.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces = _Pieces(size)
        self._running = subprocess.Popen(
            [*INSIDE, sys.executable, "-m", "benchmarks.hosts.plain", THERE, str(size)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._running.stdout is not None
        self._connection = socket.create_connection((THERE, int(self._running.stdout.readline())))
        self.pid = self._running.pid

    def ask(self, count: int) -> None:
        """So many batches are sent from now on."""
        self._connection.sendall(b"%d\n" % count)

    def receive(self) -> None:
        """One of them."""
        into, at = self._pieces.next(), 0
        while at < self._size:
            at += self._connection.recv_into(into[at:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._running.wait()


def _send(host: str, size: int) -> None:
    pieces = _Pieces(size)
    with socket.create_server((host, 0)) as server:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for count in connection.makefile("rb"):
                for _ in range(int(count)):
                    connection.sendall(pieces.next())


if __name__ == "__main__":
    _send(sys.argv[1], int(sys.argv[2]))
