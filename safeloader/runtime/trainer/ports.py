"""What those who work for a driver are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.core import messages as m
    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.shadow.trainer_side import ShadowProcesses
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.trainer.inline import InlineBatch
    from safeloader.runtime.trainer.journal import Journal
    from safeloader.runtime.trainer.process_handle import ProcessHandle, ProcessTable
    from safeloader.runtime.trainer.reporting import Reporter
    from safeloader.runtime.trainer.shield import Shield

__all__ = ["Consumer", "Outcome", "Parts"]


class Outcome(NamedTuple):
    """A batch; or else what raises the error that comes in its place, or that ends the epoch."""

    batch: Any
    fail: Callable[[], Any] | None


class Parts(NamedTuple):
    """One loader's.

    Attributes:
        journal: tells the supervisor what happened.
        shield: does what must not be broken off.
        processes: those that are there.
        shadows: the copies of them.
        start: makes one, if the system can (else OSError).
        relieved: whether one that is ready stands in for one that is lost.
        launcher: how they come to be.
        spec: what they are given.
        arena: the memory of batches.
        reporter: speaks to people.
    """

    journal: Journal
    shield: Shield
    processes: ProcessTable
    shadows: ShadowProcesses
    start: Callable[[int, bool, int | None, bool], ProcessHandle]
    relieved: Callable[[], bool]
    launcher: Launcher
    spec: Payload
    arena: Arena
    reporter: Reporter


class Consumer(Protocol):
    """Whoever asks for batches.

    Attributes:
        outcome: what comes next.
        here: what the trainer itself made, if that comes next.
        told: the states that were asked for.
    """

    outcome: Outcome | None
    here: InlineBatch
    told: list[m.GiveState]

    def close(self) -> None:
        """Nothing comes any more."""
