"""Which of the known words somebody may have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["nearest"]

_ALIKE = 0.6


def nearest(word: str, known: Iterable[str]) -> str:
    """A question to put behind an error: ``did you mean "skip"?``; "" if nothing known is near.

    Args:
        word: What was given.
        known: What would have been accepted.
    """
    best, name = max(((_likeness(word.casefold(), name.casefold()), name) for name in known), default=(0.0, ""))
    return f'did you mean "{name}"?' if best >= _ALIKE else ""


def _likeness(word: str, name: str) -> float:
    """From 0 to 1, of what the two do not begin with alike: a prefix that all names have makes none of them near."""
    import difflib  # only an error needs it, and every process imports this module

    begin = 0
    for at, (one, two) in enumerate(zip(word, name, strict=False), 1):
        if one != two:
            break
        begin = at if one in "_.-" else begin
    rest, other = word[begin:], name[begin:]
    if len(rest) > 2 and other.startswith(rest):  # "stall" for "stall_report"
        return _ALIKE
    return difflib.SequenceMatcher(None, rest, other).ratio()
