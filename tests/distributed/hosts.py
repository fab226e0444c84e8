"""Several hosts on one machine: network namespaces, joined by a bridge in one more. No traffic leaves them.

::

    host 0 ─ eth0 ──┐
    host 1 ─ eth0 ──┼── bridge, in a namespace of its own: a port that is down is a cut link
    host 2 ─ eth0 ──┘
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

from typing_extensions import Self

__all__ = ["Hosts", "why_not"]


def _ip(*words: Any) -> str:
    said = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, timeout=30, check=False)
    if said.returncode:
        raise OSError(f"ip {' '.join(map(str, words))}: {said.stderr.strip()}")
    return said.stdout


def why_not() -> str:
    """Why there can be no namespaces here; "" if there can."""
    if sys.platform != "linux" or shutil.which("ip") is None or shutil.which("unshare") is None:
        return "no ip (iproute2) or unshare (util-linux) here"
    try:
        with Hosts(1):
            return ""
    except OSError as error:
        return f"no network namespaces here: {error}"


class Hosts:
    """So many hosts, with the addresses 10.77.0.1 and on, until the end of the ``with``."""

    def __init__(self, count: int) -> None:
        self._names = [f"safeloader-{os.getpid()}-{number}" for number in range(count)]
        self._switch = f"safeloader-{os.getpid()}-switch"

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
            for number, name in enumerate(self._names):
                self._add(number, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _add(self, number: int, name: str) -> None:
        port = f"port{number}"
        _ip("netns", "add", name)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")

    def __exit__(self, *exc: object) -> None:
        for name in [*self._names, self._switch]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30, check=False)

    def address(self, number: int) -> str:
        """A host's."""
        return f"10.77.0.{number + 1}"

    def command(self, number: int, command: list[str]) -> list[str]:
        """A command as it runs on a host, which has a name of its own, too."""
        named = ["sh", "-c", f'hostname host-{number} && exec "$@"', "sh", *command]
        return ["ip", "netns", "exec", self._names[number], "unshare", "--uts", *named]

    def cut(self, number: int) -> None:
        """Take a host's cable out."""
        _ip("-n", self._switch, "link", "set", f"port{number}", "down")

    def heal(self, number: int) -> None:
        """Put it in again."""
        _ip("-n", self._switch, "link", "set", f"port{number}", "up")
