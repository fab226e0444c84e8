"""One ambient state of a process: how it is read, how it is set, and what a worker begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["UNKNOWN", "Begins", "Surrounding"]

Begins = Literal["clean", "born", "follows", "derived", "trainer"]
"""What a worker in the trainer begins with.

``clean``: what a new process has. ``born``: what the trainer had when the iterator was made, which a process inherits.
``follows``: what the trainer has at any time, until the worker changes it itself. ``derived``: what ``clean`` makes of
that. ``trainer``: always the trainer's.
"""

UNKNOWN = object()
"""A value that cannot be read: it is neither changed nor put back."""


class Surrounding(NamedTuple):
    """One ambient state.

    Attributes:
        name: for people.
        get: reads it; the values of one state can be compared.
        put: sets it.
        begins: what a worker begins with.
        clean: what a new process has, where ``begins`` says so.
        rare: hardly anybody changes it, and reading it takes calls to the system: it is read when a worker is set up,
            and when a function that changes it is called.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]
    begins: Begins = "follows"
    clean: Any = UNKNOWN
    rare: bool = False

    def change(self, now: Any, value: Any) -> bool:
        """Set it to a value, if it is not so already. False if the system does not allow it."""
        if now is UNKNOWN or value is UNKNOWN or value == now:
            return True
        try:
            self.put(value)
        except Exception:
            return False
        return True

    def read(self) -> Any:
        """The value now."""
        try:
            return self.get()
        except Exception:  # say, a folder that was removed
            return UNKNOWN
