"""Another host: a network namespace of this machine (it takes root and ``ip``), and an agent in it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HERE", "INSIDE", "THERE", "agent", "certificates", "network", "ports_blocked", "switch"]

_NAMESPACE, HERE, THERE = "safeloader-bench", "10.201.7.1", "10.201.7.2"
INSIDE = ("ip", "netns", "exec", _NAMESPACE)


def _do(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """A namespace, and a pair of interfaces that leads to it."""
    _do("ip", "netns", "add", _NAMESPACE)
    try:
        _do("ip", "link", "add", "slbench0", "type", "veth", "peer", "name", "slbench1", "netns", _NAMESPACE)
        _do("ip", "addr", "add", f"{HERE}/24", "dev", "slbench0")
        _do("ip", "link", "set", "slbench0", "up")
        _do(*INSIDE, "ip", "addr", "add", f"{THERE}/24", "dev", "slbench1")
        _do(*INSIDE, "ip", "link", "set", "slbench1", "up")
        _do(*INSIDE, "ip", "link", "set", "lo", "up")
        yield
    finally:
        subprocess.run(("ip", "link", "del", "slbench0"), check=False, capture_output=True)
        _do("ip", "netns", "del", _NAMESPACE)


def switch(state: str) -> None:
    """The link is ``"up"`` or ``"down"``."""
    _do("ip", "link", "set", "slbench0", state)


@contextlib.contextmanager
def ports_blocked(first: int) -> Iterator[None]:
    """As a firewall does it: who opens a connection to a port from there on (a power of two) is not answered."""
    change = ("qdisc", "add", "dev", "slbench0")
    _do("tc", *change, "root", "handle", "1:", "htb", "default", "1")
    try:
        for number, rate in ((1, "10gbit"), (3, "8bit")):
            _do("tc", "class", "add", "dev", "slbench0", "parent", "1:", "classid", f"1:{number}", "htb", "rate", rate)
        _do("tc", *change, "parent", "1:3", "pfifo", "limit", "0")
        syn = "match", "u8", "0x02", "0x12", "at", "33"
        ports = "match", "ip", "dport", f"{first:#x}", f"{first:#x}"
        where = "dev", "slbench0", "parent", "1:", "protocol", "ip"
        _do("tc", "filter", "add", *where, "u32", "match", "ip", "protocol", "6", "0xff", *ports, *syn, "flowid", "1:3")
        yield
    finally:
        _do("tc", "qdisc", "del", "dev", "slbench0", "root")


@contextlib.contextmanager
def agent(key: bytes, tls: tuple[str, str, str] | None = None) -> Iterator[tuple[str, int]]:
    """An agent on the other host; its address."""
    directory = () if tls is None else (str(Path(tls[0]).parent),)
    with subprocess.Popen(
        [*INSIDE, sys.executable, "-m", "safeloader.remote.agent", THERE, *directory],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(key.hex() + "\n")
        running.stdin.flush()
        host, port = running.stdout.readline().split()
        try:
            yield host, int(port)
        finally:
            running.stdin.close()


@contextlib.contextmanager
def certificates() -> Iterator[tuple[str, str, str]]:
    """A certificate that is its own CA, for both ends: certificate, key and CA."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{name}" for name in ("tls.crt", "tls.key", "ca.crt")]
        made = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=bench"
        _do("openssl", "req", "-x509", *made, "-keyout", names[1], "-out", names[0])
        Path(names[2]).write_bytes(Path(names[0]).read_bytes())
        yield names[0], names[1], names[2]
