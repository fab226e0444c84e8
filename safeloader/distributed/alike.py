"""Whether two ranks iterate the same data, and what to say if they do not. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["DATA", "Told", "ends_differ", "facts_differ", "gone_on_alone"]

DATA = {
    "samples": "samples in the dataset",
    "seed": "seed of the sampler",
    "shuffle": "shuffling",
    "ends": "ends of the sampler",
    "epoch": "epoch",
    "at": "place in the epoch (batch, sample)",
}
"""What must be the same on all ranks, or samples are seen twice and others never."""

_BATCHES = "batches"
_MEANT = 'where ranks are meant to differ, Policy(rank_check="off")'
_EVEN = (
    "let all ranks take as many batches: drop_last=True in the sampler, or "
    'safeloader.distributed.ElasticDistributedSampler(ends="even"); or wrap the loop in '
    "torch.distributed.algorithms.Join, and " + _MEANT
)
_SAME = (
    "give every rank the same dataset, seed and arguments, and resume all of them or none; where these are two "
    "loaders, give each a name; " + _MEANT
)


class Told(NamedTuple):
    """A difference in words.

    Attributes:
        what: What is different, and on which ranks.
        hint: What to try.
        data: It is about the data, and not only about how many batches it makes.
    """

    what: str
    hint: str
    data: bool


def facts_differ(where: str, rank: int, mine: dict[str, Any], other: int, theirs: dict[str, Any]) -> Told | None:
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
    return Told(f"ranks {rank} and {other} differ about {where}: {listed}", _SAME if data else _EVEN, data)


def ends_differ(where: str, rank: int, mine: int, other: int, theirs: int) -> Told | None:
    """Compare how many batches two ranks were given when their epochs ended."""
    if mine == theirs:
        return None
    what = f"{where} ended after {mine} batches on rank {rank}, and after {theirs} on rank {other}"
    return Told(what, _EVEN, False)


def gone_on_alone(where: str, rank: int, mine: int, other: int, theirs: int) -> Told | None:
    """This rank stands still in its epoch; another has come to the end of it."""
    if mine <= theirs:
        return None
    what = (
        f"{where} has ended on rank {other}, after {theirs} batches, and rank {rank} was given {mine}: what it does "
        "with all ranks, such as a backward pass, has no partner there"
    )
    return Told(what, _EVEN, False)
