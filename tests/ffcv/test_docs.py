"""Every test that docs/ffcv.md names for a row is there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
DOC = HERE.parents[1] / "docs" / "ffcv.md"


def rows() -> list[tuple[str, str]]:
    """(first column, last column) of the table of failures."""
    table = DOC.read_text().partition("## What it does when")[2].partition("## Measured")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [(cells[0], cells[-1]) for cells in lines[1:]]


def test_each_row_of_the_matrix_is_there() -> None:
    named = " ".join(first for first, _ in rows())
    for row in [f"F{n}" for n in (*range(1, 23),)] + [f"R{n}" for n in range(1, 5)]:
        assert re.search(rf"\b{row}\b", named), row


def test_each_test_that_is_named_exists() -> None:
    count = 0
    for _, tests in rows():
        for part in tests.split(";"):
            if part.startswith("`tests/"):
                assert (HERE.parents[1] / part.strip("`")).exists(), part
                continue
            file, names = part.split()[0].strip(",`"), re.findall(r"`(\w+?)_?…?(?:\[\w+\])?`", part)
            text = (HERE / f"test_{file}.py").read_text()
            for name in names:
                count += 1
                assert re.search(rf"def test_{name}", text), (file, name)
    assert count > 40
