"""A pipe whose writing end only this trainer holds: it hangs up when the trainer is gone, however it went."""

from __future__ import annotations

import os

__all__ = ["lifeline"]

_pipe: tuple[int, int] | None = None


def lifeline() -> int:
    """The reading end, which every process inherits."""
    global _pipe  # noqa: PLW0603 - one per trainer, for its whole life
    if _pipe is None:
        _pipe = os.pipe()
    return _pipe[0]


def _forget() -> None:
    """A fork of the trainer is not the trainer: it must not keep the processes alive."""
    global _pipe  # noqa: PLW0603
    if _pipe is not None:
        os.close(_pipe[1])
        os.close(_pipe[0])
        _pipe = None


os.register_at_fork(after_in_child=_forget)
