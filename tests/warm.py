"""Programs that need not import torch: forks of a process that has. For tests of what a program does once it runs."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from typing import Any

from tests import warm_workers
from tests.warm_birth import ROOM, parsed
from tests.warm_workers import of_the_start

_CODE = "from tests.warm_server import serve; exec(*serve({}))"


class _Server:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = of_the_start(environment)
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", _CODE.format(theirs.fileno()), ROOM], env=environment,
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def serves(self, environment: dict[str, str]) -> bool:
        return of_the_start(environment) == self.environment and self.process.poll() is None

    def close(self) -> None:
        self.channel.close()
        self.process.wait()


_servers: list[_Server] = []  # none, or the one


def begin(environment: dict[str, str]) -> None:
    """Have the server import torch meanwhile.

    Args:
        environment: what programs have; those that differ in what is read at the start are no forks.
    """
    if sys.platform == "linux":
        _servers.append(_Server(environment))


def end() -> None:
    """No further program is asked for."""
    while _servers:
        _servers.pop().close()


def start(command: tuple[str, ...], environment: dict[str, str], **options: Any) -> subprocess.Popen[str] | None:
    """Start a program as ``python *command`` would; None where that needs an interpreter of its own.

    Args:
        command: options ``-u`` and ``-W``, then a script or ``-m`` and a module, then its arguments.
        environment: its variables.
        options: of ``subprocess.Popen``: ``cwd``, and where its output goes.
    """
    asked = parsed(list(command))
    server = next((one for one in _servers if one.serves(environment)), None)
    if asked is None or asked.code is not None or server is None or warm_workers.all_are_fresh():
        return None
    request = {"command": list(command), "environment": environment, "cwd": str(options.pop("cwd", os.getcwd()))}
    return _Forked(request, server.channel, **options)


class _Forked(subprocess.Popen[str]):
    """A program that another process has forked, which tells how it ended."""

    def __init__(self, request: dict[str, Any], channel: socket.socket, **options: Any) -> None:
        self._request, self._channel = request, channel
        super().__init__(request["command"], **options)

    def _execute_child(self, *given: Any) -> None:
        pipes = given[10:16]
        stdin, _, _, stdout, _, stderr = pipes
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        streams = [number if pipe == -1 else pipe for number, pipe in enumerate((stdin, stdout, stderr))]
        with theirs:
            socket.send_fds(self._channel, [json.dumps(self._request).encode()], [*streams, theirs.fileno()])
        self.pid = int.from_bytes(self._told.recv(8), "big")
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self._told], [], [], 0)[0]:
            return 0, 0
        with self._told:
            return self.pid, int.from_bytes(self._told.recv(8), "big")

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        lock: threading.Lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(blocking=False):  # else another thread waits for it
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode
