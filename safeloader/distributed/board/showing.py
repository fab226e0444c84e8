"""The board as ``safeloader top`` and ``print(board())`` show it: a line a rank, the worst first, never too many."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.distributed.board.judge import is_silent
from safeloader.distributed.board.words import brief, named
from safeloader.observe.format import duration

if TYPE_CHECKING:
    from safeloader.distributed.board.judge import Sighting, Verdict

__all__ = ["Reading", "as_status", "lines"]

MOST_RANKS = 64
"""Ranks that are shown; of more, the worst."""


class Reading(NamedTuple):
    """All ranks, as read last.

    Attributes:
        world: how many there are.
        seen: the newest row of each that has one.
        verdict: what that means.
        age: seconds since it was read; None: never.
        problem: why it could not be read lately; "" if it could.
    """

    world: int
    seen: dict[int, Sighting]
    verdict: Verdict
    age: float | None
    problem: str


def lines(reading: Reading, most: int = MOST_RANKS) -> list[str]:
    """Text, a line a rank."""
    shown = _worst(reading, most)
    told = [f"rank {rank:,} ({seen.row.host}): {_state(seen)}" for rank, seen in shown]
    told += [f"... {len(reading.seen) - len(shown):,} more"] if len(reading.seen) > len(shown) else []
    missing = [rank for rank in range(reading.world) if rank not in reading.seen]
    told += [f"{named(missing)}: nothing published yet"] if missing and reading.age is not None else []
    return told + [said for said in (reading.verdict.said, reading.problem) if said]


def _state(seen: Sighting) -> str:
    silent = f"silent for {duration(seen.quiet)}; " if is_silent(seen) else ""
    return silent + brief(seen.row, 0.0 if silent else seen.quiet)


def _worst(reading: Reading, most: int) -> list[tuple[int, Sighting]]:
    def badness(item: tuple[int, Sighting]) -> tuple[bool, bool, float]:
        seen = item[1]
        return is_silent(seen), seen.row.state == "waits", seen.stands

    chosen = sorted(reading.seen.items(), key=badness, reverse=True)[:most]
    chosen.sort()
    return sorted(chosen, key=lambda item: badness(item)[:2], reverse=True)  # who is silent, who waits, all others


def as_status(reading: Reading, group: str) -> dict[str, Any]:
    """Fit for JSON.

    Args:
        reading: what is known.
        group: a name that all ranks of one process group share.
    """
    missing = [rank for rank in range(reading.world) if rank not in reading.seen]
    return {
        "group": group,
        "world_size": reading.world,
        "age": reading.age,
        "problem": reading.problem,
        "said": reading.verdict.said,
        "holders": list(reading.verdict.holders),
        "published": len(reading.seen),
        "missing": missing[:MOST_RANKS],
        "rows": [
            {**asdict(seen.row), "quiet": seen.quiet, "silent": is_silent(seen)}
            for _, seen in _worst(reading, MOST_RANKS)
        ],
        "lines": lines(reading, MOST_RANKS),
    }
