"""The one table of message codes: what each message says, what it means, and what to do.

docs/messages.md is made of it.

A code belongs to one message for ever. A message that goes away stays here with ``retired=True``, so that nobody gives
its code to another. ``python -m safeloader.code_table`` prints the page.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from safeloader.code_tables import errors, lines, others

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SECTIONS", "TABLE", "Row", "page"]


class Row(NamedTuple):
    """One message.

    Attributes:
        code: such as ``SL003``.
        kind: ``"log"``, ``"warning"`` or ``"error"``; with a class's name where it is an error of that class.
        says: how it reads, with ``...`` for what differs.
        means: what happened.
        do: what to do about it.
        retired: no version gives it any more.
    """

    code: str
    kind: str
    says: str
    means: str
    do: str
    retired: bool = False


SECTIONS: tuple[tuple[str, tuple[Row, ...]], ...] = (
    ("Faults of processes and samples (log)", tuple(Row(*row) for row in lines.FAULTS)),
    ("What follows, and the course of a run (log)", tuple(Row(*row) for row in lines.COURSE)),
    ("Warnings and notes of the loader", tuple(Row(*row) for row in others.LOADER)),
    ("Several ranks", tuple(Row(*row) for row in others.RANKS)),
    ("Training helpers", tuple(Row(*row) for row in others.TRAINING)),
    ("FFCV", tuple(Row(*row) for row in others.FFCV)),
    ("Errors", tuple(Row(*row) for row in errors.ERRORS)),
)
TABLE: dict[str, Row] = {row.code: row for _, rows in SECTIONS for row in rows}

_HEAD = """# Messages

Each line of the log, warning and error ends with a code, such as `[SL003]` (an error has a line `code:` and the
attribute `error.code`; a log record has `record.code`). A code belongs to one message for ever. Log lines have the
loader's name in front. Batches, epochs, workers and samples count from 0, as they do in torch, in the
[events](events.md) and in the report.

<!-- made by: python -m safeloader.code_table > docs/messages.md -->
"""


def page() -> str:
    """docs/messages.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.rstrip("\n")
    for title, rows in SECTIONS:
        yield f"\n## {title}"
        for row in rows:
            yield f"\n### {row.code}"
            if row.retired:
                yield "\nNot given any more. "
            yield f"\n**{row.says}** ({row.kind})"
            yield f"\n{row.means}"
            yield f"\n*What to do:* {row.do}"


if __name__ == "__main__":
    sys.stdout.write(page())
