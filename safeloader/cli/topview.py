"""What ``safeloader top`` shows: a summary, each program's loaders and workers; short where there is little room."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safeloader.cli.tables import needs, table
from safeloader.cli.toplook import in_order
from safeloader.observe.format import duration, inline, many, printable

if TYPE_CHECKING:
    from safeloader.cli.toplook import Look

__all__ = ["NARROW", "body", "render"]

NARROW = 100
"""Columns below which the short form is shown."""
_MOST_PROBLEMS = 10


def render(look: Look, width: int, order: str = "waiting") -> Any:
    """Everything, for rich."""
    return needs("rich.console").Group(_styled(look.summary, "bold"), *body(look, width, order))


def body(look: Look, width: int, order: str) -> list[Any]:
    """What follows the summary: who does not answer, then the programs, then all ranks."""
    parts: list[Any] = [_styled(problem, "bold red") for problem in look.problems[:_MOST_PROBLEMS]]
    if len(look.problems) > _MOST_PROBLEMS:
        parts.append(f"{len(look.problems) - _MOST_PROBLEMS:,} more do not answer")
    for program in in_order(look.programs, order):
        parts += _program(program, width)
    parts += [_styled(line, "") for ranks in _boards(look.programs) for line in _board(ranks)]
    return parts


def _styled(text: str, style: str) -> Any:
    return needs("rich.text").Text(printable(text), style=style)


def _program(program: dict[str, Any], width: int) -> list[Any]:
    rank = f", rank {program['rank']} of {program.get('world_size', '?')}" if "rank" in program else ""
    words = " ".join(os.path.basename(str(word)) for word in program["program"])
    parts = [_styled(f"{program['pid']}{rank}: {inline(words, max(width - 20, 20))}", "bold")]
    if not program["loaders"]:
        parts.append(_styled("  no loader has begun an epoch, or all are gone", "dim"))
    for loader in sorted(program["loaders"], key=lambda loader: not loader["waiting"]):
        held = loader["waiting"] and loader["since"] >= 1
        lines = _headline(loader) if width >= NARROW else _short(loader)
        parts += [_styled(line, "yellow" if held else "") for line in lines]
        if loader["crew"]:
            parts.append(_crew(loader["crew"]) if width >= NARROW else _short_crew(loader["crew"], width))
    return parts


def _boards(programs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest account of each process group's ranks; those of this machine have one each."""
    told = [program["ranks"] for program in programs if "ranks" in program]
    told.sort(key=lambda ranks: float("inf") if ranks["age"] is None else ranks["age"], reverse=True)
    return list({ranks["group"]: ranks for ranks in told}.values())


def _board(ranks: dict[str, Any]) -> list[str]:
    age = "not read yet" if ranks["age"] is None else f"read {duration(ranks['age'])} ago"
    head = f"all {ranks['world_size']:,} ranks at {inline(ranks['group'], 60)}, {age}:"
    return [head, *(f"  {inline(line, 400)}" for line in ranks["lines"])]


def _state(loader: dict[str, Any]) -> str:
    return "waits for a batch" if loader["waiting"] else "has a batch" if loader["busy"] else "between epochs"


_COUNTS = {"faults": "fault", "restarts": "restart", "fallbacks": "fallback", "skipped": "skipped sample"}


def _short(loader: dict[str, Any]) -> list[str]:
    """For few columns: a line for each thing that matters."""
    length = "" if loader["length"] is None else f"/{loader['length']:,}"
    counts = [many(loader[key], thing) for key, thing in _COUNTS.items() if loader[key]]
    place = f"epoch {loader['epoch']}, batch {loader['batch']:,}{length}"
    return [
        f" {inline(loader['name'], 24)}: {_state(loader)}, {duration(loader['since'])}",
        f"  {place}, {loader['rate']:.3g}/s, {loader['wait_share']:.0%} waiting",
        *([f"  {', '.join(counts)}"] if counts else []),
    ]


def _short_crew(posts: list[dict[str, Any]], width: int) -> Any:
    """Who works or is in trouble; the idle are counted."""
    busy = [post for post in posts if post["state"] != "idle" or _trouble(post)]
    rows = [
        (post["worker"], _in_words(post), _or_dash(post["batch"]), inline(_or_dash(post["sample"]), max(width - 38, 8)),
         duration(post["age"]) if post["age"] else "-")
        for post in busy
    ]  # fmt: skip
    styles = ["bold red" if _trouble(post) else None for post in busy]
    if len(busy) < len(posts):
        rows.append(("", f"{len(posts) - len(busy)} idle", "", "", ""))
    return table(("#worker", "state", "#batch", "sample", "#age"), rows, styles)


def _trouble(post: dict[str, Any]) -> bool:
    return bool(post["os_state"] in ("stopped", "disk-sleep", "gone") or post["attempts"])


def _in_words(post: dict[str, Any]) -> str:
    state = str(post["state"])
    return f"{state} ({post['os_state']})" if post["os_state"] in ("stopped", "disk-sleep", "gone") else state


def _headline(loader: dict[str, Any]) -> list[str]:
    length = "" if loader["length"] is None else f" of {loader['length']:,}"
    told = [
        f"  {inline(loader['name'], 40)}: epoch {loader['epoch']}, batch {loader['batch']:,}{length}",
        f"{loader['rate']:.3g} a second",
        f"{loader['wait_share']:.0%} waiting for data",
        f"{_state(loader)} for {duration(loader['since'])}",
    ]
    if loader["workers"]:
        told.append(f"{many(loader['processes'], 'process')} for {many(loader['workers'], 'worker')}")
    told += [many(loader[key], thing) for key, thing in _COUNTS.items() if loader[key]]
    return [", ".join(told)]


def _crew(posts: list[dict[str, Any]]) -> Any:
    rows, styles = [], []
    for post in posts:
        rows.append((
            post["worker"], _or_dash(post["process"]), _in_words(post), _or_dash(post["batch"]),
            inline(_or_dash(post["sample"]), 30),
            duration(post["age"]) if post["age"] else "-", post["attempts"] or "-", post["queued"],
            "-" if post["memory"] is None else f"{post['memory'] / (1 << 20):,.0f} MiB",
        ))  # fmt: skip
        styles.append("bold red" if _trouble(post) else None)
    columns = ("#worker", "#process", "state", "#batch", "sample", "#age", "#attempts", "#queued", "#memory")
    return table(columns, rows, styles)


def _or_dash(value: Any) -> Any:
    return "-" if value is None else value
