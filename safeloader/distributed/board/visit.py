"""A visit of the store: a rank publishes its row, and may read those of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.distributed.board.rank_status import decode
from safeloader.distributed.store import found

if TYPE_CHECKING:
    from safeloader.distributed.board.rank_status import RankStatus

__all__ = ["key_of", "visit"]


def visit(store: Any, rank: int, wire: bytes, read: int | None) -> dict[int, RankStatus] | None:
    """Publish a row; and read those of so many ranks.

    Args:
        store: as `GroupStore.open` gives it.
        rank: whose row it is.
        wire: the row, encoded.
        read: how many ranks there are to read; None: read none.
    """
    store.set(key_of(rank), wire.decode())
    if read is None:
        return None
    keys = {key_of(number): number for number in range(read)}
    rows = ((keys[key], decode(value)) for key, value in found(store, list(keys)).items())
    return {number: row for number, row in rows if row is not None and row.rank == number}


def key_of(rank: int) -> str:
    """Where a rank's row is."""
    return f"board/{rank}"
