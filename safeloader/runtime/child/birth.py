"""What a process was born with, and is asked for later."""

from __future__ import annotations

import select

__all__ = ["ended", "name_of", "stacks_and_lifeline"]

stacks_and_lifeline = (-1, -1)
"""Descriptors: where Python stacks are written, and the pipe that hangs up with the trainer."""


def ended(lifeline: int) -> bool:
    """True if the trainer is gone."""
    poller = select.poll()
    poller.register(lifeline, 0)
    return bool(poller.poll(0))


def name_of(process: int) -> str:
    """What multiprocessing calls it."""
    return f"safeloader-{process}"
