"""What the processes of a pool need of a loader that uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from safeloader.core.supervisor import Supervisor
    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.payload import Payload

__all__ = ["PoolClient"]


class PoolClient(Protocol):
    """A loader that uses a pool: its driver.

    Attributes:
        spec: what processes are given.
        arena: its memory.
        due: its next deadline.
        closed: it has ended.
    """

    spec: Payload
    arena: Arena
    due: float
    closed: bool

    @property
    def supervisor(self) -> Supervisor:
        """Its books."""

    @property
    def busy(self) -> bool:
        """Whether somebody is at them."""

    def attend(self, stopped: bool = False) -> None:
        """Another loader of the pool waits, perhaps for what this one's samples do: look whether something is due."""

    def close(self) -> None:
        """End it."""
