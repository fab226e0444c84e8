"""A store's port behind a counter of bytes and connections: what goes over the wire, framing of the store included."""

from __future__ import annotations

import socket
import threading
from typing import NamedTuple

__all__ = ["CountingPort", "Traffic"]


class Traffic(NamedTuple):
    """What has gone through a port.

    Attributes:
        connections: that carried a byte. A knock, which carries none, is not counted.
        to_store: bytes.
        from_store: bytes.
    """

    connections: int
    to_store: int
    from_store: int

    def since(self, before: Traffic) -> Traffic:
        """What has gone through since."""
        return Traffic(*(now - then for now, then in zip(self, before, strict=True)))


class CountingPort:
    """Forwards connections to a port, and counts.

    Args:
        port: of this machine.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._counts = [0, 0, 0]
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def traffic(self) -> Traffic:
        """So far."""
        with self._lock:
            return Traffic(*self._counts)

    def close(self) -> None:
        """Take no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(caller,), daemon=True).start()

    def _carry(self, caller: socket.socket) -> None:
        try:
            first = caller.recv(1 << 16)
            if not first:
                return
            with socket.create_connection(("127.0.0.1", self._target)) as store:
                self._count(0, 1)
                self._count(1, len(first))
                store.sendall(first)
                back = threading.Thread(target=self._pump, args=(store, caller, 2), daemon=True)
                back.start()
                self._pump(caller, store, 1)
                back.join()
        except OSError:
            pass
        finally:
            caller.close()

    def _pump(self, source: socket.socket, target: socket.socket, place: int) -> None:
        try:
            while data := source.recv(1 << 18):
                self._count(place, len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _count(self, place: int, number: int) -> None:
        with self._lock:
            self._counts[place] += number
