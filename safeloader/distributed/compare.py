"""Compares what two ranks iterate, and describes a difference. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["DATA", "Difference", "ended_elsewhere", "ends_differ", "facts_differ"]

DATA = {
    "samples": "samples in the dataset",
    "seed": "seed of the sampler",
    "shuffle": "shuffling",
    "ends": "ends of the sampler",
    "epoch": "epoch",
    "at": "place in the epoch (batch, sample)",
}
"""Must be equal on all ranks; otherwise some samples are loaded twice and others never."""

_BATCHES = "batches"
_MEANT = 'where ranks differ on purpose, Policy(rank_check="off")'
_EVEN = (
    "make all ranks take the same number of batches: drop_last=True in the sampler, or "
    'safeloader.distributed.ElasticDistributedSampler(ends="even"); or wrap the loop in '
    "torch.distributed.algorithms.Join, and " + _MEANT
)
_SAME = (
    "give every rank the same dataset, seed and arguments, and resume all of them or none; where these are two "
    "loaders, give each a name; " + _MEANT
)


class Difference(NamedTuple):
    """A difference, described.

    Attributes:
        what: What is different, and on which ranks.
        hint: What to try.
        data: Whether the data differ, and not only the number of batches.
    """

    what: str
    hint: str
    data: bool


def facts_differ(where: str, rank: int, mine: dict[str, Any], other: int, theirs: dict[str, Any]) -> Difference | None:
    """Compare what two ranks are about to iterate.

    Args:
        where: Loader and epoch.
        rank: This rank.
        mine: Its facts.
        other: The other.
        theirs: Its facts.
    """
    names = [name for name in (*DATA, _BATCHES) if mine.get(name) != theirs.get(name)]
    if not names:
        return None
    listed = "; ".join(
        f"{DATA.get(name, _BATCHES)}: {mine.get(name)} on rank {rank}, {theirs.get(name)} on rank {other}"
        for name in names
    )
    data = names != [_BATCHES]
    return Difference(f"ranks {rank} and {other} differ about {where}: {listed}", _SAME if data else _EVEN, data)


def ends_differ(where: str, rank: int, mine: int, other: int, theirs: int) -> Difference | None:
    """Compare how many batches two ranks had received when their epochs ended."""
    if mine == theirs:
        return None
    what = f"{where} ended after {mine} batches on rank {rank}, and after {theirs} on rank {other}"
    return Difference(what, _EVEN, False)


def ended_elsewhere(where: str, rank: int, mine: int, other: int, theirs: int) -> Difference | None:
    """This rank makes no progress in its epoch, and another rank has finished it."""
    if mine <= theirs:
        return None
    what = (
        f"{where} has ended on rank {other} after {theirs} batches, and rank {rank} has received {mine}: its "
        "collective operations, such as those of a backward pass, have no partner there"
    )
    return Difference(what, _EVEN, False)
