"""Who holds all ranks up: pure, from what they say of themselves to the sentence a tired person needs.

In this order: who is silent; who waits for data; who is absent; who has left; and, where all others stand in the step,
who is through, or behind the others, or outside of the call that the others wait in, or at another line than most.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from safeloader.distributed.board.words import awaited, brief, named
from safeloader.observe.format import duration, many

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from safeloader.distributed.board.rank_status import RankStatus

__all__ = ["MOST_A_SECOND", "Sighting", "Verdict", "interval", "is_silent", "judge", "silent_after", "turn"]


MOST_A_SECOND = 200.0
"""Rows that all ranks publish together, at most: 1,000 ranks every 5 seconds, 10,000 every 50.

They take turns, spread over the interval by the golden ratio, so that no two of them begin together.
"""
_GOLDEN = 0.6180339887498949


def interval(world: int, least: float) -> float:
    """Seconds between two rows of one rank, of so many ranks; ``least`` where they are few."""
    return max(least, world / MOST_A_SECOND)


def turn(rank: int, every: float) -> float:
    """Seconds until a rank's first row: rank 0 at once, the others spread over the interval."""
    return (rank * _GOLDEN) % 1.0 * every


def silent_after(every: float) -> float:
    """Seconds without a new row after which a rank that publishes so often is silent."""
    return 2 * every + 1.0


_MOST_TOLD = 3
"""Ranks of a kind that are told of one by one."""


class Sighting(NamedTuple):
    """A rank's newest row.

    Attributes:
        row: it.
        quiet: seconds since it was seen to be new, by the reader's clock.
    """

    row: RankStatus
    quiet: float = 0.0

    @property
    def stands(self) -> float:
        """Seconds without a step."""
        return self.row.since + self.quiet


class Verdict(NamedTuple):
    """What the board says.

    Attributes:
        said: one sentence; "" if all ranks move.
        holders: the ranks that hold up the others; none where that cannot be told.
        why: ``"silent"``, ``"absent"``, ``"waits"``, ``"left"``, ``"stands"``, or "" (moves, or cannot be told): of the
            first of them.
        moving: how many ranks go on.
    """

    said: str = ""
    holders: tuple[int, ...] = ()
    why: str = ""
    moving: int = 0


def is_silent(seen: Sighting) -> bool:
    """It should have published since. Who has left need not."""
    return seen.row.state != "left" and seen.quiet >= silent_after(seen.row.every)


def judge(seen: Mapping[int, Sighting], world: int, lasting: float) -> Verdict:
    """Say who holds the run.

    Args:
        seen: the newest row of each rank that has one.
        world: how many ranks there are.
        lasting: seconds without a step from which on a rank stands still.
    """
    kinds = _sorted_out(seen, world, lasting)
    standing = kinds["stands"]
    holders = {kind: kinds[kind] for kind in ("silent", "waits", "absent") if kinds[kind]}
    if not holders and kinds["left"] and standing:
        holders = {"left": kinds["left"]}
    elif not holders or list(holders) == ["absent"]:
        # Ranks that load nothing, such as later stages of a pipeline, are absent, too.
        odd = _outside(seen, standing) if holders else _odd(seen, standing)
        holders |= {"stands": odd} if odd else {}
    if not holders:
        return _undecided(seen, standing, kinds["moves"])
    hosts = len({one.row.host for one in seen.values()}) > 1
    parts = [part for kind, ranks in holders.items() for part in _told(kind, ranks, seen, hosts)]
    held = [rank for rank in standing if rank not in holders.get("stands", ())]
    parts += [] if not held else [_held(held, seen, hosts)]
    parts += [] if not kinds["moves"] else [f"{named(kinds['moves'])} {_go(kinds['moves'])} on"]
    every = sorted(rank for ranks in holders.values() for rank in ranks)
    return Verdict("; ".join(parts), tuple(every), next(iter(holders)), len(kinds["moves"]))


def _sorted_out(seen: Mapping[int, Sighting], world: int, lasting: float) -> dict[str, list[int]]:
    kinds: dict[str, list[int]] = {kind: [] for kind in ("silent", "absent", "waits", "left", "stands", "moves")}
    for rank in range(world):
        kinds[_kind(seen.get(rank), lasting)].append(rank)
    return kinds


def _kind(seen: Sighting | None, lasting: float) -> str:
    if seen is None:
        return "absent"
    if seen.row.state == "left":
        return "left"
    if is_silent(seen):
        return "silent"
    if seen.row.state == "idle":
        return "stands"
    if seen.stands < lasting:
        return "moves"
    return "waits" if seen.row.state == "waits" else "stands"


# ---------------------------------------------------------------- of those in the step, who


def _outside(seen: Mapping[int, Sighting], standing: list[int]) -> list[int]:
    """Those that stand in no call that other ranks take part in."""
    return [rank for rank in standing if not seen[rank].row.joined]


def _odd(seen: Mapping[int, Sighting], standing: list[int]) -> list[int]:
    """Those that differ from the others; all, if there is but one."""
    if len(standing) < 2:
        return standing
    for differ in (_through, _behind, _alone, _elsewhere):
        odd = differ({rank: seen[rank].row for rank in standing})
        if odd:
            return odd
    return []


def _through(rows: Mapping[int, RankStatus]) -> list[int]:
    """Through with their epoch, and in no call that the others, who are in one, could wait for."""
    through = [rank for rank, row in rows.items() if row.state == "between" and not row.joined]
    return through if any(row.joined for row in rows.values()) else []


def _behind(rows: Mapping[int, RankStatus]) -> list[int]:
    """In the same loader, at an earlier batch than the foremost; or in no epoch yet while others are."""
    if len({row.loader for row in rows.values() if row.state != "idle"}) > 1:
        return []
    at = {rank: (-1, 0) if row.state == "idle" else (row.epoch, row.batch) for rank, row in rows.items()}
    foremost = max(at.values())
    behind = [rank for rank, where in at.items() if where < foremost and rows[rank].state != "between"]
    return behind if len(behind) < len(rows) else []


def _alone(rows: Mapping[int, RankStatus]) -> list[int]:
    """Outside of torch's calls, while others are in one and wait for them there."""
    outside = [rank for rank, row in rows.items() if not row.joined]
    return outside if len(outside) < len(rows) else []


def _elsewhere(rows: Mapping[int, RankStatus]) -> list[int]:
    """Not at the line where more than half are."""
    (place, count), *_ = Counter(row.place for row in rows.values()).most_common(1)
    return [rank for rank, row in rows.items() if row.place != place] if 2 * count > len(rows) else []


# ---------------------------------------------------------------- words


def _told(kind: str, ranks: Sequence[int], seen: Mapping[int, Sighting], hosts: bool) -> list[str]:
    """Those of one kind: the worst of them one by one, the rest as a number."""
    if kind == "absent":
        have = "has" if len(ranks) == 1 else "have"
        return [f"{named(ranks)} {have} published nothing yet: no epoch begun there, or the store is out of reach"]
    worst = sorted(ranks, key=lambda rank: (-seen[rank].stands, rank))
    told = [f"{_who(rank, seen, hosts)}{_HOLDS[kind](seen[rank])}" for rank in worst[:_MOST_TOLD]]
    rest = len(ranks) - len(told)
    return told + ([f"{many(rest, 'more rank')} {_TOO[kind][rest == 1]}"] if rest else [])


def _who(rank: int, seen: Mapping[int, Sighting], hosts: bool) -> str:
    return f"rank {rank:,}" + (f" on {seen[rank].row.host}" if hosts and seen[rank].row.host else "")


def _waits(seen: Sighting) -> str:
    return f" {awaited(seen.row, seen.quiet)}"


def _silent(seen: Sighting) -> str:
    return (
        f" has published nothing for {duration(seen.quiet)}: it is stopped, gone or cut off "
        f"(last seen: {brief(seen.row, 0.0)})"
    )


def _left(seen: Sighting) -> str:
    after = f", after batch {seen.row.batch:,} of {seen.row.loader}" if seen.row.loader else ""
    return f" left the group {duration(seen.stands)} ago{after}"


def _stands(seen: Sighting) -> str:
    row, stood = seen.row, f"stood at {seen.row.place or 'an unknown place'} for {duration(seen.stands)}"
    if row.state == "idle":
        return " has a program whose loaders have begun no epoch"
    if row.state == "between":
        return f" asks for no batch: epoch {row.epoch} of {row.loader} is over for it, and it has {stood}"
    ready = f", {many(row.ready, 'batch')} ready" if row.workers else ""
    return f"'s loader is healthy{ready}; its trainer has {stood}"


_HOLDS: dict[str, Callable[[Sighting], str]] = {"silent": _silent, "waits": _waits, "left": _left, "stands": _stands}
_TOO = {
    "silent": ("are silent, too", "is silent, too"),
    "waits": ("wait for data, too", "waits for data, too"),
    "left": ("have left, too", "has left, too"),
    "stands": ("stand still, too", "stands still, too"),
}


def _held(ranks: list[int], seen: Mapping[int, Sighting], hosts: bool) -> str:
    who = _who(ranks[0], seen, hosts) if len(ranks) == 1 else named(ranks)
    return f"{who} {'waits' if len(ranks) == 1 else 'wait'} in the step"


def _go(ranks: list[int]) -> str:
    return "goes" if len(ranks) == 1 else "go"


def _undecided(seen: Mapping[int, Sighting], standing: list[int], moving: list[int]) -> Verdict:
    if not standing:
        return Verdict(moving=len(moving))
    longest = max(seen[rank].stands for rank in standing)
    places = Counter(seen[rank].row.place or "an unknown place" for rank in standing).most_common(3)
    at = ", ".join(place if len(places) == 1 else f"{place} ({many(count, 'rank')})" for place, count in places)
    rest = f"; {named(moving)} {_go(moving)} on" if moving else ""
    return Verdict(
        f"{named(standing)} have stood in the step for {duration(longest)}, at {at}; no loader is waited for, and no "
        f"rank is behind another{rest}",
        moving=len(moving),
    )
