"""Ranks in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.observe.format import duration, inline, many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.distributed.board.rank_status import RankStatus

__all__ = ["awaited", "brief", "named", "sample_in_words"]

_MOST_SINGLE = 8
_MOST_RUNS = 4


def named(ranks: Sequence[int]) -> str:
    """``rank 3``; ``ranks 0, 1, 2``; of many, runs: ``ranks 0 to 11, 13 to 9,999``."""
    ranks = sorted(ranks)
    if len(ranks) == 1:
        return f"rank {ranks[0]:,}"
    if len(ranks) <= _MOST_SINGLE:
        return "ranks " + ", ".join(f"{rank:,}" for rank in ranks)
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    if len(runs) > _MOST_RUNS:
        return f"{len(ranks):,} ranks"
    return "ranks " + ", ".join(f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in runs)


def sample_in_words(sample: int | str) -> str:
    """``sample 51,203``; other indices as they are."""
    return f"sample {sample:,}" if isinstance(sample, int) else f"sample {inline(sample, 60)}"


def awaited(row: RankStatus, seconds: float) -> str:
    """What a rank waits for, and who has it. ``seconds``: since the row was new."""
    working = duration(row.working + seconds)
    text = f"waits for batch {row.batch:,} of {row.loader}"
    if row.sample is not None and row.worker is not None:
        return f"{text}: worker {row.worker} has worked on {sample_in_words(row.sample)} for {working}"
    if row.doing:
        return f"{text}: {row.doing}" + (f", for {working}" if row.working else "")
    at = f" in the main process, at {row.place}" if row.place else ""
    return f"{text} for {duration(row.since + seconds)}{at}"


def brief(row: RankStatus, quiet: float) -> str:
    """How a rank stands, for a line of a table. ``quiet``: seconds since the row was new."""
    where = f"epoch {row.epoch}, batch {row.batch:,}" + (f" of {row.length:,}" if row.length is not None else "")
    seconds = duration(row.since + quiet)
    place = f" at {row.place}" if row.place else ""
    state = {
        "waits": awaited(row, quiet),
        "steps": f"has a batch for {seconds}{place}" + (f", {many(row.ready, 'batch')} ready" if row.workers else ""),
        "between": f"between epochs for {seconds}{place}",
        "idle": "no loader has begun an epoch",
        "left": f"left {seconds} ago",
    }[row.state]
    told = state if row.state == "idle" else f"{row.loader}, {where}: {state}" if row.loader else state
    return told + (f"; {many(row.faults, 'fault')}" if row.faults else "")
