"""Starts processes on its host, for stand-ins that know the job's key.

Ray runs it as an actor; this file runs it alone::

    python -m safeloader.remote.agent 10.0.0.7          the key comes in the first line of its input, in hex
    python -m safeloader.remote.agent 10.0.0.7 /etc/tls     the same, encrypted: the directory of ``tls.tls_files``

It writes its address as one line, and ends with its input.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from safeloader.remote import handshake
from safeloader.remote.node_store import NodeStore
from safeloader.remote.payloads import Payloads
from safeloader.remote.relay import Relay

if TYPE_CHECKING:
    from safeloader.remote.tls import TlsFiles

__all__ = ["SILENCE", "Agent"]

SILENCE = 15.0
"""Seconds without a word from the other host after which a link counts as cut, on either side."""

_PROOF = 10.0  # seconds for a stand-in to prove itself
_MOST_UNPROVED = 64  # connections at a time that have not proved themselves


class Agent:
    """Listens on one address.

    Args:
        key: the job's.
        address: of this host, in the network of the cluster.
        silence: see `SILENCE`.
        own_first: this program's ``sys.path`` goes before the trainer's.
        tls: certificate, key and CA on this host, if nobody is to be heard who shows no certificate of that CA.

    Attributes:
        address: host and port.
    """

    def __init__(
        self, key: bytes, address: str, silence: float = SILENCE, own_first: bool = False,
        tls: tuple[str, str, str] | None = None,
    ) -> None:  # fmt: skip
        self._key = key
        self._tls: TlsFiles | None = None
        if tls is not None:
            from safeloader.remote.tls import TlsFiles, server_context

            self._tls = TlsFiles(*tls)
            server_context(self._tls)  # what is wrong with the files is told here
        self._silence = silence
        self._own_first = own_first
        self._store = NodeStore(key, Payloads())
        self._unproved = threading.BoundedSemaphore(_MOST_UNPROVED)
        resource_tracker.ensure_running()  # for all its processes
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family, backlog=_MOST_UNPROVED)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        threading.Thread(target=self._accept, name="safeloader-agent", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            self._unproved.acquire()
            threading.Thread(target=self._serve, args=(connection,), name="safeloader-relay", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            try:
                connection = self._prove(connection)
            finally:
                self._unproved.release()
        except OSError:
            return
        Relay(connection, self._store, self._silence, self._own_first).serve()

    def _prove(self, connection: socket.socket) -> socket.socket:
        binding = b""
        try:
            if self._tls is not None:
                from safeloader.remote import tls

                connection.settimeout(_PROOF)
                connection, binding = tls.accept(connection, self._tls)
            handshake.accept(connection, self._key, _PROOF, binding)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """No further process is started."""
        self._socket.close()
        self._store.close()


def main() -> None:
    """Run until the input ends. A process ends with this program, however it ends."""
    key = bytes.fromhex(sys.stdin.readline())
    silence = float(os.environ.get("_SAFELOADER_SILENCE", SILENCE))
    address, *directory = sys.argv[1:] or ["127.0.0.1"]
    encrypts = None
    if directory:
        from safeloader.remote.tls import tls_files

        encrypts = tls_files(directory[0])
    agent = Agent(key, address, silence, tls=encrypts)
    sys.stdout.write(f"{agent.address[0]} {agent.address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
