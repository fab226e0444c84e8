"""Agents as programs of their own, and a link between them and the trainer that can be cut."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from typing_extensions import Self

from safeloader.remote.plain_hosts import PlainHosts
from safeloader.remote.tls import TlsFiles
from tests.programs import environment

KEY = bytes(range(32))
SILENCE = 3.0  # seconds


class AgentProgram:
    """An agent in a process of its own, as on another host.

    Args:
        prefix: what it is started with (``ip netns exec NAME``).
        address: where it listens.
        tls: what it encrypts with: those of a directory.
    """

    def __init__(self, prefix: tuple[str, ...] = (), address: str = "127.0.0.1", tls: TlsFiles | None = None) -> None:
        directory = () if tls is None else (str(Path(tls.certificate).parent),)
        self._running = subprocess.Popen(
            [*prefix, sys.executable, "-m", "safeloader.remote.agent", address, *directory],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(_SAFELOADER_SILENCE=str(SILENCE)),
        )  # fmt: skip
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write(KEY.hex() + "\n")
        self._running.stdin.flush()
        host, port = self._running.stdout.readline().split()
        self.address = host, int(port)
        self.pid = self._running.pid

    def processes(self) -> list[psutil.Process]:
        """Those that serve loaders there, oldest first."""
        try:
            children = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if "process_main" in " ".join(_line(child))]

    def kill(self) -> None:
        """SIGKILL."""
        self._running.kill()
        self._running.wait()

    def close(self) -> None:
        """End it, as its input ends."""
        with contextlib.suppress(OSError):
            self._running.stdin.close()  # type: ignore[union-attr]
        self._running.wait(20)
        self._running.stdout.close()  # type: ignore[union-attr]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


class Link:
    """A port that leads to an agent's, and counts what goes through.

    Attributes:
        there: bytes that went to the agent.
        delay: seconds that each piece is held up, either way.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._server.getsockname()
        self.there = 0
        self.delay = 0.0
        self._open = threading.Event()
        self._open.set()
        self._ends: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._ends.append((near, far))
            thread = threading.Thread(target=self._connection, args=(near, far), name="link", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connection(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(far, near, False), name="link", daemon=True)
        back.start()
        self._pump(near, far, True)
        back.join()
        self._ends.remove((near, far))
        near.close()
        far.close()

    def _pump(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                self._open.wait()
                time.sleep(self.delay)
                self.there += counts * len(data)
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Nothing gets through, and nobody is told."""
        self._open.clear()

    def heal(self) -> None:
        """What was held back goes on."""
        self._open.set()

    def lead(self, target: tuple[str, int]) -> None:
        """Who connects from now on comes out elsewhere."""
        self._target = target

    def cut(self) -> None:
        """Both sides are told that the other is gone."""
        for ends in list(self._ends):
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of everything."""
        self._open.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(20)


@contextlib.contextmanager
def linked(agent: AgentProgram) -> Iterator[Link]:
    """A link to an agent."""
    link = Link(agent.address)
    try:
        yield link
    finally:
        link.close()


def hosts(*addresses: tuple[str, int], key: bytes = KEY, local: int = 0, tls: TlsFiles | None = None) -> PlainHosts:
    """For a policy."""
    return PlainHosts(addresses, key, SILENCE, local, None if tls is None else (tls.certificate, tls.key, tls.ca))
