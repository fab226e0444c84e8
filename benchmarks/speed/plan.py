"""What is measured how often, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        loaders: The two names of a pair; the first is what the second is compared with.
        repeats: Pairs per measurement.
        quick: Shorter epochs, fewer variants.
        say: Called with what is being measured now.
    """

    loaders: tuple[str, str]
    repeats: int
    quick: bool
    say: Callable[[str], None]


@dataclass
class Table:
    """A table of results.

    Attributes:
        title: What was measured.
        note: How to read it, in a sentence or two.
        columns: The headings.
        rows: Cells as text.
        raw: All measured values, for the JSON file.
    """

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)


def paired(plan: Plan) -> Iterator[tuple[int, str]]:
    """The arms (0 or 1) of all pairs in the order they run in: A B, B A, A B, ..."""
    for repeat in range(plan.repeats):
        order = (0, 1) if repeat % 2 == 0 else (1, 0)
        for arm in order:
            yield arm, plan.loaders[arm]
