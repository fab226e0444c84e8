"""What a process was born with, and is asked for later."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

__all__ = ["ended", "name_of", "stacks_and_lifeline"]

stacks_and_lifeline = (-1, -1)
"""Descriptors: where Python stacks are written, and the pipe that hangs up with the trainer."""


def ended(link: int | socket.socket) -> bool:
    """True if nobody is at the other end any more: of the lifeline, the trainer."""
    poller = select.poll()
    poller.register(link, 0)
    return bool(poller.poll(0))


def name_of(process: int) -> str:
    """What multiprocessing calls it."""
    return f"safeloader-{process}"
