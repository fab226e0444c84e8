"""Many ranks, one truth about the data.

::

    (seed, epoch, length) --> order: position -> index     ``order``: pure, any position at once
    positions  0 1 2 3 4 5 6 7 8 ...                       a global cursor moves over them, all ranks' step at a time
    rank       0 1 2 0 1 2 0 1 2 ...                       ``elastic``: who takes which

    the process group's key-value store <── ``store``: asked with a deadline, by a thread of its own
           ▲ what this rank iterates        ``guard``: the second rank compares; ``alike``: in words (pure)
    the process group's timeout ──────────> ``patience``: deadlines that fit into it
    every rank's loader ─▶ the group's store ─▶ who holds the run     ``health``: for every rank, without a collective
"""

from __future__ import annotations

from .elastic import ElasticDistributedSampler
from .health import Board, board

__all__ = ["Board", "ElasticDistributedSampler", "board"]
