"""What all that can happen to a loader has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = ["Happening"]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened.

    Attributes:
        event: Its name in the file of events.
        time: When, in seconds since 1970.
        loader: Name of the loader.
    """

    event: ClassVar[str] = ""

    time: float
    loader: str
