"""Which calls are under way, and the errors for callers who come too late or meanwhile."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from safeloader.errors import ConcurrentUseError, LoaderClosedError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from types import CodeType, FrameType

__all__ = ["are_under_way", "closed_error", "in_use_error", "is_in"]


def are_under_way(of: object, codes: AbstractSet[CodeType], besides: int = 0) -> bool:
    """Whether more than so many calls of these methods of an object are under way, in any thread."""
    found = 0
    for frame in sys._current_frames().values():
        at: FrameType | None = frame
        while at is not None:
            found += at.f_code in codes and at.f_locals.get("self") is of
            at = at.f_back
    return found > besides


def is_in(frame: FrameType | None, code: CodeType) -> bool:
    """Whether a frame is one of this code's, or was called by one."""
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def in_use_error() -> ConcurrentUseError:
    """For a second thread."""
    return ConcurrentUseError(
        "two threads asked the same iterator for a batch at the same time",
        hint="give each thread its own loader, or guard next() with a lock",
    )


def closed_error(owner: int) -> LoaderClosedError:
    """For who asks a closed iterator of process ``owner``, or asks it in a fork of that process."""
    if os.getpid() != owner:
        return LoaderClosedError(
            f"this iterator belongs to process {owner}, of which this process ({os.getpid()}) is a fork: "
            "its batches are the parent's",
            hint="begin an epoch of its own here with iter(loader), which starts processes of its own",
        )
    return LoaderClosedError(
        "this iterator is closed",
        hint="begin a new epoch with iter(loader), or make a new loader if the loader was closed",
    )
