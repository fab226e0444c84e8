"""What ``safeloader top`` shows: rows made of two answers of each program, and a table of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from safeloader.cli.tables import needs, table
from safeloader.observe.format import duration, inline, many
from safeloader.observe.status_socket import NoAnswerError, ask, listening

__all__ = ["Look", "Looker", "render"]

VERSION = 1  # of what `--once --json` writes

_FRESH = 2.0
"""Seconds until what a program has read of the other ranks is old, and for which a new reading is waited for."""
_TRIES = 10


@dataclass
class Look:
    """All programs at one moment.

    Attributes:
        programs: the answers, with ``rate``, ``wait_share`` and each process's ``memory`` and ``os_state`` added.
        problems: a sentence for each program that gave none.
        others: programs of other users, which are not asked.
    """

    programs: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    others: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"v": VERSION, "programs": self.programs, "problems": self.problems, "other_users": self.others}


class Looker:
    """Asks all programs again and again, and knows how fast they were in between.

    Args:
        pid: ask this one only.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._before: dict[tuple[int, str, int], tuple[float, int, float]] = {}

    def look(self) -> Look:
        """Ask everybody.

        Raises:
            OSError: this system does not tell who could be asked.
        """
        seen = Look()
        if self._pid is None:
            pids, seen.others = listening()
        else:
            pids = [self._pid]
        for pid in pids:
            try:
                program = _told_by(pid)
            except NoAnswerError as why:
                seen.problems.append(f"{why}{_state_in_words(pid)}")
                continue
            for number, loader in enumerate(program["loaders"]):
                self._add_rates(program["pid"], number, loader)
                for post in loader["crew"]:
                    post.update(_facts(post["process"]))
            seen.programs.append(program | _facts(program["pid"]))
        return seen

    def _add_rates(self, pid: int, number: int, loader: dict[str, Any]) -> None:
        """Since the last look; at the first since the pass began."""
        now, key = monotonic(), (pid, loader["name"], number)
        before = self._before.get(key)
        self._before[key] = (now, loader["batches"], loader["waited"])
        seconds, batches, waited = loader["pass_seconds"], loader["batch"], loader["pass_waited"]
        if before is not None and now > before[0]:
            seconds, batches, waited = now - before[0], loader["batches"] - before[1], loader["waited"] - before[2]
        loader["rate"] = batches / seconds if seconds > 0 else 0.0
        loader["wait_share"] = min(max(waited / seconds, 0.0), 1.0) if seconds > 0 else 0.0


def _told_by(pid: int) -> dict[str, Any]:
    """What a program tells. Of all ranks it tells what it has read last, and reads anew: it is asked again for that.

    Raises:
        NoAnswerError: as `ask`.
    """
    program = ask(pid)
    for _ in range(_TRIES):
        ranks = program.get("ranks")
        if ranks is None or ranks["problem"] or (ranks["age"] is not None and ranks["age"] < _FRESH):
            break
        sleep(_FRESH / _TRIES)
        program = ask(pid)
    return program


def _facts(pid: int | None) -> dict[str, Any]:
    """Memory of a process in bytes (its own part of it, where the system tells), and the kernel's state of it."""
    if pid is None:
        return {"memory": None, "os_state": None}
    psutil = needs("psutil")
    try:
        process = psutil.Process(pid)
        try:
            memory = process.memory_full_info().uss
        except psutil.AccessDenied:
            memory = process.memory_info().rss
        return {"memory": int(memory), "os_state": str(process.status())}
    except psutil.Error:
        return {"memory": None, "os_state": "gone"}


def _state_in_words(pid: int) -> str:
    if _is_of_another_user(pid):
        return " (it is another user's: only that user may ask it)"
    state = _facts(pid)["os_state"]
    return {
        "stopped": " (it is stopped)",
        "disk-sleep": " (it stands in the kernel)",
        "gone": " (there is no such process)",
    }.get(str(state), "")


def _is_of_another_user(pid: int) -> bool:
    psutil = needs("psutil")
    try:
        return bool(psutil.Process(pid).uids().real != os.getuid())
    except psutil.Error:
        return False


# ---------------------------------------------------------------- shown


def render(look: Look) -> Any:
    """Everything, for rich."""
    group = needs("rich.console").Group
    parts: list[Any] = []
    for program in look.programs:
        rank = f", rank {program['rank']} of {program.get('world_size', '?')}" if "rank" in program else ""
        parts.append(f"{program['pid']}{rank}: {inline(' '.join(map(os.path.basename, program['program'])), 100)}")
        if not program["loaders"]:
            parts.append("  no loader has begun an epoch, or all are gone")
        for loader in program["loaders"]:
            parts.append(_headline(loader))
            if loader["crew"]:
                parts.append(_crew(loader["crew"]))
    parts += [line for ranks in _boards(look.programs) for line in _board(ranks)]
    if not look.programs and not look.problems:
        parts.append("no program of yours uses a safeloader DataLoader (one is seen from its first epoch on)")
    parts += look.problems
    if look.others:
        parts.append(f"{many(look.others, 'program')} of other users not shown")
    return group(*parts)


def _boards(programs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest account of each process group's ranks; those of this machine have one each."""
    told = [program["ranks"] for program in programs if "ranks" in program]
    told.sort(key=lambda ranks: float("inf") if ranks["age"] is None else ranks["age"], reverse=True)
    return list({ranks["group"]: ranks for ranks in told}.values())


def _board(ranks: dict[str, Any]) -> list[str]:
    age = "not read yet" if ranks["age"] is None else f"read {duration(ranks['age'])} ago"
    head = f"all {ranks['world_size']:,} ranks at {inline(ranks['group'], 60)}, {age}:"
    return [head, *(f"  {inline(line, 400)}" for line in ranks["lines"])]


def _headline(loader: dict[str, Any]) -> str:
    length = "" if loader["length"] is None else f" of {loader['length']:,}"
    state = "waits for a batch" if loader["waiting"] else "has a batch" if loader["busy"] else "between epochs"
    told = [
        f"  {inline(loader['name'], 40)}: epoch {loader['epoch']}, batch {loader['batch']:,}{length}",
        f"{loader['rate']:.3g} a second",
        f"{loader['wait_share']:.0%} waiting for data",
        f"{state} for {duration(loader['since'])}",
    ]
    if loader["workers"]:
        told.append(f"{many(loader['processes'], 'process')} for {many(loader['workers'], 'worker')}")
    things = {"faults": "fault", "restarts": "restart", "fallbacks": "fallback", "skipped": "skipped sample"}
    told += [many(loader[key], thing) for key, thing in things.items() if loader[key]]
    return ", ".join(told)


def _crew(posts: list[dict[str, Any]]) -> Any:
    rows, styles = [], []
    for post in posts:
        state = post["state"]
        if post["os_state"] in ("stopped", "disk-sleep", "gone"):
            state += f" ({post['os_state']})"
        rows.append((
            post["worker"], _or_dash(post["process"]), state, _or_dash(post["batch"]),
            inline(_or_dash(post["sample"]), 30),
            duration(post["age"]) if post["age"] else "-", post["attempts"] or "-", post["queued"],
            "-" if post["memory"] is None else f"{post['memory'] / (1 << 20):,.0f} MiB",
        ))  # fmt: skip
        styles.append("bold red" if "(" in state or post["attempts"] else None)
    columns = ("#worker", "#process", "state", "#batch", "sample", "#age", "#attempts", "#queued", "#memory")
    return table(columns, rows, styles)


def _or_dash(value: Any) -> Any:
    return "-" if value is None else value
