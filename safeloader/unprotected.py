"""Loaders of this program that run processes which nobody replaces: each kind is named once, and kept for a report."""

from __future__ import annotations

from safeloader import codes

__all__ = ["note", "report"]

_kinds: dict[str, str] = {}
_counts: dict[str, int] = {}


def note(kind: str, advice: str) -> None:
    """One more loader of a kind runs unprotected. The first is told.

    Args:
        kind: What it is, in words.
        advice: What to do about it.
    """
    _counts[kind] = _counts.get(kind, 0) + 1
    if kind not in _kinds:
        _kinds[kind] = advice
        codes.log_warning(
            "SL121", "NOT protected: %s. Its processes are not replaced when they die or hang; %s", kind, advice
        )


def report() -> str:
    """All of them, a line each; "" if there is none."""
    if not _kinds:
        return ""
    lines = [f"  {kind} ({_counts[kind]} times): {advice}" for kind, advice in _kinds.items()]
    return "\n".join(["NOT protected by safeloader:", *lines])
