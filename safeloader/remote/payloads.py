"""Datasets that came to this host, by their hash: one copy for all processes that need it."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import threading
from typing import TYPE_CHECKING

from safeloader.runtime import by_value, system

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["Payloads", "Pending", "digest_of"]


def digest_of(descriptor: int) -> tuple[str, int]:
    """Hash and size of a payload. The same objects are the same, whatever numbers the trainer's descriptors have."""
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapping, memoryview(mapping) as view:
        start, end = by_value.numbers(view)
        found = hashlib.sha256(view[:start])
        found.update(view[end:])
        return found.hexdigest(), size


class Pending:
    """One that is on its way here, or has come.

    Args:
        digest: its hash.
        size: its bytes.
        descriptor: the memory file, where another agent of this node made it.
        whole: it has come already.
        held: closed with it.
        done: called when it has come.

    Attributes:
        descriptor: the memory file; sealed once it is whole.
        whole: it has come, and is what it was said to be.
        fetcher: the user that has it sent.
    """

    def __init__(
        self,
        digest: str,
        size: int,
        descriptor: int = -1,
        whole: bool = False,
        held: socket.socket | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        self._digest = digest
        self._size = size
        self._left = size
        self._held = held
        self._done = done
        self.descriptor = descriptor if descriptor >= 0 else system.memory_file("spec")
        self.whole = whole
        self.fetcher: object = None

    def write(self, data: bytes | bytearray, offset: int) -> bool:
        """A part of it has come. Returns True with the last.

        Raises:
            ValueError: it is not what it was said to be.
        """
        written = 0
        while written < len(data):
            written += os.pwrite(self.descriptor, memoryview(data)[written:], offset + written)
        self._left -= len(data)
        if self._left:
            return False
        if digest_of(self.descriptor) != (self._digest, self._size):
            raise ValueError("the dataset did not arrive as it was sent")
        system.seal(self.descriptor)
        self.whole = True
        if self._done is not None:
            with contextlib.suppress(OSError):  # whoever keeps it is gone: it is this agent's alone
                self._done()
        return True

    def __del__(self) -> None:
        os.close(self.descriptor)
        if self._held is not None:
            self._held.close()


class Payloads:
    """Those of one agent. They live as long as somebody uses them; the last one stays for whoever comes next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, set[object]] = {}
        self._found: dict[str, Pending] = {}
        self._last: str | None = None

    def want(self, user: object, digest: str, size: int) -> tuple[Pending, bool]:
        """It, and whether this user is the one that has to fetch it; ask again until it is whole."""
        with self._lock:
            users = self._users.setdefault(digest, set())
            pending = self._found.get(digest)
            fetches = pending is None
            if pending is None:
                pending = self._found[digest] = Pending(digest, size)
                pending.fetcher = user
            users.add(user)
            return pending, fetches

    def has(self, digest: str) -> bool:
        """Whether it is here, or on its way here."""
        with self._lock:
            return digest in self._found

    def add(self, user: object, digest: str, pending: Pending) -> None:
        """It comes from another agent of this node, or is fetched for both."""
        with self._lock:
            pending.fetcher = user
            self._found[digest] = pending
            self._users.setdefault(digest, set()).add(user)

    def let_go(self, user: object) -> None:
        """A user is gone. What it was fetching is fetched by the next."""
        with self._lock:
            for digest, users in list(self._users.items()):
                if user not in users:
                    continue
                users.discard(user)
                pending = self._found[digest]
                if not pending.whole and pending.fetcher is user:
                    del self._users[digest], self._found[digest]
                elif pending.whole and not users:
                    self._forget(digest)

    def _forget(self, digest: str) -> None:
        if self._last is not None and self._last != digest and not self._users.get(self._last, True):
            del self._users[self._last], self._found[self._last]
        self._last = digest

    def is_wanted(self, pending: Pending) -> bool:
        """False once whoever fetched it is gone."""
        with self._lock:
            return pending in self._found.values()
