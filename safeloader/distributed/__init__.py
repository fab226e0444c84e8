"""Several ranks: who loads what, whether they agree, and which of them holds the run.

::

    (seed, epoch, length) --> order: position -> index     ``order``: pure, any position at once
    positions  0 1 2 3 4 5 6 7 8 ...                       a global cursor moves over them, all ranks' step at a time
    rank       0 1 2 0 1 2 0 1 2 ...                       ``elastic``: who takes which

    the process group's key-value store <── ``store``: asked with a deadline, by a thread of its own
           ▲ what this rank iterates        ``rank_check``: a rank compares itself with the first; ``compare``: pure
    the process group's timeout ──────────> ``timeouts``: deadlines that fit into it
    every rank's loader ─▶ the group's store ─▶ which rank holds the run     ``board``: without a collective
"""

from __future__ import annotations

from safeloader.distributed.board import Board, board
from safeloader.distributed.elastic import ElasticDistributedSampler

__all__ = ["Board", "ElasticDistributedSampler", "board"]
