"""Which of the known words somebody may have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(word: str, known: Iterable[str]) -> str:
    """A question to put behind an error: ``did you mean "skip"?``; "" if nothing known is near.

    Args:
        word: What was given.
        known: What would have been accepted.
    """
    import difflib  # only an error needs it, and every process imports this module

    by_folded = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f'did you mean "{by_folded[found[0]]}"?' if found else ""
