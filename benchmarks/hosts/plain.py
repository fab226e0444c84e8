"""Plain TCP between two programs, from shared memory into shared memory: what a stream could reach at best."""

from __future__ import annotations

import mmap
import socket
import sys
import time

__all__ = ["receive", "send"]


def send(host: str) -> None:
    """Tell the port, wait for one connection, and send what it asks for: batches of so many bytes."""
    with socket.create_server((host, 0)) as server:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            size, count = map(int, connection.recv(100).split())
            memory = memoryview(mmap.mmap(-1, size))
            for _ in range(count):
                connection.sendall(memory)


def receive(address: tuple[str, int], size: int, count: int) -> float:
    """Seconds for so many batches."""
    memory = memoryview(mmap.mmap(-1, size))
    with socket.create_connection(address) as connection:
        connection.sendall(f"{size} {count}".encode())
        begun = time.perf_counter()
        for _ in range(count):
            at = 0
            while at < size:
                at += connection.recv_into(memory[at:])
        return time.perf_counter() - begun


if __name__ == "__main__":
    send(sys.argv[1])
