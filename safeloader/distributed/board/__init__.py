"""The board: the state of every rank's loader, for every rank, over the process group's store. No collective.

::

    status of this program ─▶ its row ──▶ publisher: when? ──▶ visit, in a thread of the client ──▶ a key a rank
                                             │   ▲                              │
    rank 0's log ◀── judge: a sentence ◀─────┘   └─ rows of all ranks, if read ◀┘

`rank_status`, `judge`, `words`, `interval` and `publisher` are pure. `member` is called by the thread that watches for
stalls, between two looks; it never waits. Nothing here runs in the trainer, except where it asks (`board`).
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safeloader import codes
from safeloader.dist_env import group
from safeloader.distributed.board.judge import Sighting, Verdict, judge
from safeloader.distributed.board.member import BoardMember
from safeloader.distributed.board.rank_status import RankStatus
from safeloader.distributed.board.showing import Reading, lines
from safeloader.distributed.store import GroupStore
from safeloader.errors import SafeLoaderError
from safeloader.observe import stall

if TYPE_CHECKING:
    from safeloader.config import Settings

__all__ = ["Board", "RankStatus", "Sighting", "Verdict", "board", "judge", "publish"]

_member: BoardMember | None = None


@dataclass(frozen=True)
class Board:
    """All ranks at one moment. ``str(board)`` has a line a rank.

    Attributes:
        world_size: how many ranks there are.
        ranks: what each that has published says, and how long ago.
        missing: those that have published nothing yet.
        said: who holds the run, in one sentence; "" while all move.
        holders: the ranks that do.
        age: seconds since it was read; None: it could not be read yet.
        problem: why it could not be read just now; "" if it could.
    """

    world_size: int
    ranks: dict[int, Sighting]
    missing: tuple[int, ...]
    said: str
    holders: tuple[int, ...]
    age: float | None
    problem: str

    _reading: Reading

    def __str__(self) -> str:
        return "\n".join(lines(self._reading))


def board(timeout: float = 10.0) -> Board:
    """How the loaders of all ranks stand, read now. Any rank may ask, in any thread; no other rank takes part.

    Who has published nothing new since the last reading is silent: to see that takes two readings.

    Args:
        timeout: seconds to wait for the store; after that, what was read last, with ``problem``.

    Raises:
        SafeLoaderError: there is no board: no process group of several ranks, no loader that has begun an epoch, or
            ``SAFELOADER_BOARD=0``.
    """
    if _member is None or group() is None:
        raise SafeLoaderError(
            "this program is on no board",
            hint="it begins with the first epoch after torch.distributed.init_process_group(), of two ranks or more, "
            "unless SAFELOADER_BOARD=0",
            code="SL233",
        )
    told = _member.read(timeout)
    missing = tuple(rank for rank in range(told.world) if rank not in told.seen)
    verdict = told.verdict
    return Board(told.world, told.seen, missing, verdict.said, verdict.holders, told.age, told.problem, told)


def publish(settings: Settings) -> None:
    """An epoch begins: put this rank on the board, if it is one of several and not there yet."""
    here = group()
    if here is None or here[1] < 2 or not settings.board:
        return
    try:
        _join(settings, *here)
    except Exception:  # whatever it is, it must not end the training
        codes.log_warning("SL115", "this rank cannot be put on the board", exc_info=True)


def _join(settings: Settings, rank: int, world: int) -> None:
    global _member  # noqa: PLW0603 - one a program
    from safeloader.torch_private import default_store

    store, member = default_store(), _member
    if (
        member is None
        or member.gone
        or (member.rank, member.world) != (rank, world)
        or not member.store.leads_to_the_store_of(GroupStore(store))
    ):
        _leave()
        _member = BoardMember(store, rank, world, settings.board_interval, settings.stall_report)
        stall.accompany(_member)


@atexit.register
def _leave() -> None:
    if _member is not None:
        _member.leave()


def _forget() -> None:
    global _member  # noqa: PLW0603
    _member = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
