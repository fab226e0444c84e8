"""The length of something that may have none."""

from __future__ import annotations

from typing import Any

__all__ = ["length_of"]


def length_of(thing: Any) -> int | None:
    """``len(thing)``; None where that is not known, whatever its ``__len__`` raises."""
    try:
        return len(thing)
    except Exception:
        return None
