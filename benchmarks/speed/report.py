"""The tables: on the terminal, as Markdown, as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from benchmarks.speed.plan import Table


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": models[0] if models else platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def show(tables: list[Table]) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console.width = 150
    for table in tables:
        drawn = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
        for column in table.columns:
            drawn.add_column(column, overflow="fold")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
        console.print()


def markdown(tables: list[Table], how: str) -> str:
    """The tables as a Markdown page.

    Args:
        tables: What was measured.
        how: The command that measured it.
    """
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    lines = [
        "# Speed: safeloader against torch's DataLoader",
        "",
        f"Written by `{how}`; not edited by hand. {about[0].upper()}{about[1:]}.",
        "Ratios come from pairs in one run; absolute figures belong to this machine.",
        "",
    ]
    for table in tables:
        lines += [
            f"## {table.title}",
            "",
            table.note,
            "",
            _row(table.columns),
            _row(["---"] * len(table.columns)),
        ]
        lines += [_row(row) for row in table.rows]
        lines.append("")
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write(folder: Path, tables: list[Table], how: str) -> list[Path]:
    """Write RESULTS.md and results.json into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "RESULTS.md", folder / "results.json"
    page.write_text(markdown(tables, how), encoding="utf-8")
    content = {"machine": machine(), "command": how, "tables": [asdict(table) for table in tables]}
    data.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [page, data]
