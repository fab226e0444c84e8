"""From records to what people read: a table for the terminal, Markdown for the README, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from rich.text import Text

from benchmarks.hangs.adapters import ADAPTERS
from benchmarks.hangs.harness import ROOT
from benchmarks.hangs.scenario import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.hangs.judge import Record

COLOURS = {"finished": "green", "error": "yellow", "skipped": "dim"}
WITHOUT_DEADLINE = ADAPTERS["torch"].impatience
VERSION = 1
"""Of the JSON file's form."""


def cell(record: Record) -> str:
    """One loader's result in a few words: outcome, batches, wait, processes left."""
    if record.outcome == "skipped":
        return "skipped"
    words = [record.outcome]
    if record.outcome in ("hang", "error") and record.reason:
        words.append(f"({record.reason})")
    if record.due:
        words.append(f"{record.delivered}/{record.due}")
    if record.equal is False:
        words.append("≠")
    wait = record.longest_wait if record.outcome == "finished" else record.told_after
    if wait is not None and record.outcome in ("finished", "error"):
        words.append(f"{wait:.1f} s")
    if record.left:
        words.append(f"{record.left} left")
    return " ".join(words)


def by_scenario(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Records by scenario and loader, in the order in which they came."""
    rows: dict[str, dict[str, Record]] = {}
    for record in records:
        rows.setdefault(record.scenario, {})[record.loader] = record
    return rows


def loaders_of(records: Sequence[Record]) -> list[str]:
    """The loaders in the order in which they came."""
    return list(dict.fromkeys(record.loader for record in records))


def table(records: Sequence[Record]) -> Table:
    """The table for the terminal."""
    made = Table(title="what comes of it, under each loader", caption=LEGEND, caption_justify="left")
    made.add_column("row")
    made.add_column("scenario")
    for loader in loaders_of(records):
        made.add_column(loader)
    for name, results in by_scenario(records).items():
        first = next(iter(results.values()))
        cells = [_coloured(results.get(loader)) for loader in loaders_of(records)]
        made.add_row(first.row, f"{name}: {first.title}", *cells)
    return made


LEGEND = (
    "k/n: batches delivered of batches due. Seconds, after 'finished': the longest wait for a batch after the fault; "
    "after 'error': from the fault to the error. ≠: bytes differ from an undisturbed run. left: processes that live on."
)


def _coloured(record: Record | None) -> Text:
    if record is None:
        return Text("")
    colour = COLOURS.get(record.outcome, "red")
    mark = {None: "", True: " ✓", False: " ✗"}[record.as_expected]
    return Text(cell(record) + mark, style="red bold" if record.as_expected is False else colour)


def summary(records: Sequence[Record]) -> list[str]:
    """One line a loader: how often which outcome."""
    lines = []
    for loader in loaders_of(records):
        counts = Counter(record.outcome for record in records if record.loader == loader)
        told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
        judged = [record for record in records if record.loader == loader and record.as_expected is not None]
        if judged:
            told += f"; as expected: {sum(bool(record.as_expected) for record in judged)} of {len(judged)}"
        lines.append(f"{loader}: {told}")
    return lines


def problems(records: Sequence[Record]) -> list[str]:
    """One line for each row that is not what safeloader owes."""
    return [
        f"{record.scenario} under {record.loader}: {record.complaint} ({record.error_type} {record.error})"
        for record in records
        if record.as_expected is False
    ]


def tidy(text: str) -> str:
    """The text without the paths, process ids and addresses of this machine."""
    for path, name in (
        (str(ROOT), "."),
        (sys.prefix, "…"),
        (sys.base_prefix, "…"),
        (os.path.expanduser("~"), "~"),
    ):
        text = text.replace(path, name)
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\S*?(?=['\"\s]|$)", "<temporary file>", text)
    text = re.sub(r"\b(pids?(?:\(s\))?:?) \d+(, \d+)*", r"\1 <n>", text)
    return re.sub(r"0x[0-9a-f]{6,}", "0x…", text)


def facts_of_machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def to_json(records: Sequence[Record], cap: float, start: float) -> str:
    """All records and what they depend on."""
    rows = []
    for record in records:
        row = record.to_dict()
        for key in ("error", "error_text", "stderr", "report", "reason"):
            row[key] = tidy(row[key])
        rows.append(row)
    whole = {"version": VERSION, "cap": cap, "start": start, "machine": facts_of_machine(), "records": rows}
    return json.dumps(whole, indent=1) + "\n"


def markdown(records: Sequence[Record], cap: float, start: float, command: str) -> str:
    """The table, the summary and the errors, as Markdown."""
    loaders, rows = loaders_of(records), by_scenario(records)
    machine = facts_of_machine()
    lines = [
        "# Hangs, deaths and starvation: what comes of it, under each loader",
        "",
        (
            f"Made by `{command}`: Python {machine['python']}, torch {machine['torch']}, {machine['system']}, "
            f"{machine['cores']} cores. A program is said to hang when nothing happened for {cap:g} s (torch without a "
            f"timeout: {cap * WITHOUT_DEADLINE:g} s) and twice the time that workers take to start here, {start:.1f} s."
        ),
        "",
        *[f"- **{line.replace(': ', ':** ', 1)}" for line in summary(records)],
        "",
        "| row | scenario | what goes wrong | " + " | ".join(loaders) + " |",
        "|---" * (3 + len(loaders)) + "|",
    ]
    for name, results in rows.items():
        first = next(iter(results.values()))
        cells = [_bold(results[loader]) if loader in results else "" for loader in loaders]
        lines.append(f"| {first.row} | `{name}` | {first.title} | " + " | ".join(cells) + " |")
    lines += ["", LEGEND, "", "## Outcomes", ""]
    lines += [f"- **{word}**: {meaning}." for word, meaning in OUTCOMES.items()]
    lines += ["", "## What was said", "", "| scenario | loader | error or reason |", "|---|---|---|"]
    lines += [f"| `{record.scenario}` | {record.loader} | {_said(record)} |" for record in records if _said(record)]
    return "\n".join(lines) + "\n"


def _bold(record: Record) -> str:
    told = cell(record)
    return f"**{told}**" if record.outcome not in ("finished", "error", "skipped") else told


def _said(record: Record) -> str:
    lines = [line.strip() for line in record.error_text.splitlines() if line.strip()]
    # The first line of an error that comes out of a worker says only that; the last one says what it was.
    said = lines[-1] if record.error.startswith("Caught ") else f"{record.error_type}: {record.error}"
    told = record.reason if record.outcome == "skipped" else said
    if not told.strip(": "):
        return ""
    told = tidy(told).replace("|", "\\|").replace("<", "&lt;")
    return told if len(told) <= 220 else told[:217] + "…"


def write(path: Path, text: str) -> None:
    """Write a result file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.replace(path)
