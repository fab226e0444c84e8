"""What a stall is, and where a thread stands then: in the innermost line that is the program's own."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Stall", "StallPlace", "place_of"]


class StallPlace(NamedTuple):
    """Where a thread is: ``train.py:88 in step``, and its stack.

    ``joined``: from there it is in a call of torch that other ranks take part in, or in a backward pass.
    """

    line: str
    stack: str
    joined: bool = False


class Stall(NamedTuple):
    """Nothing has moved.

    Attributes:
        holder: ``"loader"``: a batch is awaited; ``"sampler"``: its indices are; ``"program"``: nobody asks for one.
        seconds: since when.
        busy: an epoch is under way.
        place: where the consumer's thread is.
    """

    holder: str
    seconds: float
    busy: bool
    place: StallPlace | None


def place_of(thread: int) -> StallPlace | None:
    """Where a thread is, in the innermost line that is the program's own: of no library, and not safeloader's."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return None
    stack = "".join(traceback.format_stack(frame))
    own = _innermost_own(frame) or frame
    code = own.f_code
    line = f"{os.path.basename(code.co_filename)}:{own.f_lineno} in {code.co_name}"
    return StallPlace(line, stack, _is_joined(frame, own))


_LIBRARIES = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__)), "<frozen")


_OF_SEVERAL_RANKS = tuple(
    os.path.join("torch", *parts) + os.sep for parts in (("distributed",), ("autograd",), ("nn", "parallel"))
)


def _is_joined(frame: FrameType | None, own: FrameType) -> bool:
    while frame is not None and frame is not own:
        if any(part in frame.f_code.co_filename for part in _OF_SEVERAL_RANKS):
            return True
        frame = frame.f_back
    return False


def _innermost_own(frame: FrameType | None) -> FrameType | None:
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARIES) and "site-packages" not in file:
            return frame
        frame = frame.f_back
    return None
