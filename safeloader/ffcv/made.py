"""What FFCV's thread puts into its queue."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["LOOK", "Bad", "Failed", "Made"]

LOOK = 0.2  # seconds between two looks at the thread, should it end without a word


class Made(NamedTuple):
    """A batch: its values, its samples, samples that are bad, and what making it changed in the operations."""

    values: tuple[Any, ...]
    samples: Any
    bad: tuple[Bad, ...]
    changes: bytes | None = None


class Bad(NamedTuple):
    """A sample whose data is corrupt."""

    position: int
    why: str


class Failed(Exception):
    """A batch could not be made; the cause is ``__cause__``."""

    def __init__(self, samples: Any) -> None:
        super().__init__("a batch could not be made")
        self.samples = samples
