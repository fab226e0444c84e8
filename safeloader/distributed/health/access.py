"""The process group's store, reached anew for each visit.

A connection of our own: one that is shared with the group would make the trainer wait for its lock. It is opened and
closed with each visit, so that 10,000 ranks hold no second connection each on the store's host, and a link that was cut
needs no mending. torch's client tells of a refused connection by a page of C++ on standard error, so a plain socket
knocks first.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .pace import chunks
from .row import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .row import Row

__all__ = ["Access"]

_SECONDS_TO_KNOCK = 3.0
_SECONDS_TO_ANSWER = 10.0


class Access:
    """How to reach the store of the process group that runs now.

    Args:
        base: the store, as the group has it.

    Attributes:
        name: what to call it in a message; the same for all ranks of a group.
    """

    def __init__(self, base: Any) -> None:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        while isinstance(base, PrefixStore):
            base = base.underlying_store
        self._kept: Any = None
        self._address: tuple[str, int] | None = None
        if isinstance(base, TCPStore):
            self._address = (base.host, base.port)
            self.name = f"{base.host}:{base.port}"
        else:
            self._kept = base
            self.name = type(base).__name__
        self._prefix = _prefix()

    def __eq__(self, other: object) -> bool:
        """Whether they lead to the same store."""
        return isinstance(other, Access) and (self._address, self._kept) == (other._address, other._kept)

    __hash__ = None  # type: ignore[assignment]

    def visit(self, rank: int, wire: bytes, read: int | None) -> dict[int, Row] | None:
        """Publish a row; and read those of so many ranks.

        Raises:
            OSError: the store's host does not take a connection.
            RuntimeError: the store does not answer.
        """
        store = self._open()
        store.set(self._key(rank), wire.decode())
        return None if read is None else self._read(store, read)

    def _open(self) -> Any:
        if self._address is None:
            return self._kept
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        socket.create_connection(self._address, _SECONDS_TO_KNOCK).close()
        host, port = self._address
        limit = timedelta(seconds=_SECONDS_TO_ANSWER)
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=limit)

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/{rank}"

    def _read(self, store: Any, world: int) -> dict[int, Row]:
        found: dict[int, Row] = {}
        for chunk in chunks(world):
            ranks = self._published(store, chunk)
            wires = _get_all(store, [self._key(rank) for rank in ranks])
            rows = ((rank, decode(wire)) for rank, wire in zip(ranks, wires, strict=True))
            found.update((rank, row) for rank, row in rows if row is not None and row.rank == rank)
        return found

    def _published(self, store: Any, ranks: Sequence[int]) -> Sequence[int]:
        """Those that have a row: to ask for one that is not there would be to wait for it."""
        if not ranks or store.check([self._key(rank) for rank in ranks]):
            return ranks
        if len(ranks) == 1:
            return ()
        half = len(ranks) // 2
        return [*self._published(store, ranks[:half]), *self._published(store, ranks[half:])]


def _get_all(store: Any, keys: list[str]) -> list[bytes]:
    if not keys:
        return []
    found = store.multi_get(keys) if store.has_extended_api() else [store.get(key) for key in keys]
    return [bytes(wire) for wire in found]


def _prefix() -> str:
    """Of this start of the group: torchrun keeps one store for all its restarts."""
    job, restart = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"safeloader/board/{job}/{restart}"
