"""The one door of the core: ``handle(event, now) -> list[Command]``, and ``next_deadline()``.

Theory of operation. The *ledger* knows which tasks are planned and whose turn it is; the *fleet* which processes there
are and which worker lives where; *traffic* what is in flight to them; the *watch* how long that may take; the
*shadows* which copies of processes there are. When a
process is gone, *recovery* puts the books right, *blame* judges the task that was in work, and
*returning* leads its workers back to their places. They are parts of one
state, speak to each other through the supervisor, and write commands to one list, in the order in which they are to be
carried out.

After each event the door itself does what any of them may have made possible: it balances the fleet, and hands over the
next batch if the consumer waits. Closing replaces the table of handlers: then only the end of processes counts.
Wart: ``handle`` is not reentrant; the driver queues the events that carrying out a command produces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.consumer import ConsumerProgress
from safeloader.core.deadlines import DeadlineWatch
from safeloader.core.dispatch import Dispatch
from safeloader.core.fleet import Fleet
from safeloader.core.leases import Leases
from safeloader.core.quarantine import Quarantine
from safeloader.core.records import Task, WorkerRecord
from safeloader.core.recovery import Recovery
from safeloader.core.restoring import Returning
from safeloader.core.schedule import Schedule
from safeloader.core.shadows import Shadows
from safeloader.core.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.policy import CoreSettings

__all__ = ["Supervisor"]


class Supervisor:
    """Decides everything about one loader's tasks, workers and processes.

    Args:
        settings: what policy wants.
        story_length: how many events are remembered.
    """

    def __init__(self, settings: CoreSettings, story_length: int = 512) -> None:
        self.settings = settings
        self.now = 0.0
        self.closed = False
        self.story = Story(story_length)
        self.workers = [WorkerRecord(number) for number in range(settings.num_workers)]
        self.progress = ConsumerProgress(self)
        self.ledger = Schedule(self)
        self.leases = Leases(keep=self.ledger.window + 8)
        self.fleet = Fleet(self)
        self.shadows = Shadows(self)
        self.returning = Returning(self)
        self.traffic = Dispatch(self)
        self.watch = DeadlineWatch(self)
        self.blame = Quarantine(self)
        self.recovery = Recovery(self)
        self._given_up: m.GiveUp | None = None
        self._out: list[m.Command] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.EpochBegan: self._epoch_began,
            m.EpochResumed: self._epoch_resumed,
            **self.progress.handlers(),
            m.LeaseReturned: self._lease_returned,
            m.CloseRequested: self._close_requested,
            **self.ledger.handlers(),
            **self.traffic.handlers(),
            **self.watch.handlers(),
            **self.shadows.handlers(),
            **self.recovery.handlers(),
        }

    # ------------------------------------------------------------ the door

    def handle(self, event: m.Event, now: float) -> list[m.Command]:
        """Take one fact, return what is to be done, in order."""
        out: list[m.Command] = []
        self._out, self.now = out, now
        self._handlers[type(event)](event)
        if self.fleet.unbalanced:
            self.fleet.balance()
        if self.progress.wanted:
            self.progress.advance()
        if self.ledger.requested:
            self.ledger.advance()
        self.story.add(now, event, out)
        self._out = []  # what was said is the driver's: keep no batch alive
        return out

    def next_deadline(self) -> float:
        """The time at which ``ClockAdvanced`` should be told, ``inf`` if none."""
        return self.fleet.next_deadline()

    def emit(self, command: m.Command) -> None:
        """Add to what is to be done."""
        self._out.append(command)

    @property
    def epoch(self) -> int:
        return self.ledger.epoch

    @property
    def tasks(self) -> dict[int, Task]:
        """Those that are planned and neither delivered nor dropped."""
        return self.ledger.tasks

    # ------------------------------------------------------------ beginnings and ends

    def _epoch_began(self, event: m.EpochBegan) -> None:
        self.ledger.begin(event.epoch)
        self.fleet.balance()
        self.ledger.plan_ahead()

    def _epoch_resumed(self, event: m.EpochResumed) -> None:
        assert self.epoch < 0, "only as the first event"
        self.progress.restore(event.state)
        self.watch.deadlines.learned = event.state.slowest
        self.ledger.restore(event.state)
        self.fleet.balance()
        if not event.state.exhausted:
            self.ledger.plan_ahead()

    def _lease_returned(self, event: m.LeaseReturned) -> None:
        self.ledger.give_back(event.lease)

    def _close_requested(self, event: m.CloseRequested) -> None:
        self.close()

    def close(self) -> None:
        """Want nothing any more, and end all processes."""
        if self.closed:
            return
        self.progress.close()
        self.closed = True
        self.ledger.requested = self.progress.wanted = False
        self.ledger.abandon_rest()
        self.shadows.drop_all()
        self.fleet.stop_all()
        wanted = (m.LeaseReturned, m.ProcessExited, m.StacksCaptured, m.ClockAdvanced, m.ShadowTaken)
        self._handlers = {
            **dict.fromkeys(m.EVENTS, _ignore),
            **{kind: self._handlers[kind] for kind in wanted},
            m.BatchRequested: self._refuse,
            m.StateRequested: self._handlers[m.StateRequested],
        }

    def give_up(self, cause: str, error: object, detail: str) -> None:
        """End the loader with an error."""
        self._given_up = m.GiveUp(cause, error, detail)
        self.emit(self._given_up)
        self.close()

    def _refuse(self, event: m.BatchRequested) -> None:
        if self._given_up is not None:
            self.emit(self._given_up)

    # ------------------------------------------------------------ telling

    def report(
        self,
        cause: str,
        detail: str,
        process: int,
        task: Task | None,
        *,
        worker: int | None = None,
        sample: int | None = None,
        stack: str | None = None,
        stalled: float = 0.0,
        action: str,
        again: int | None = None,
    ) -> None:
        """Tell of a fault."""
        self.emit(
            m.ReportFault(
                cause, detail, process, task.worker if task else worker, task.id if task else None,
                task.epoch if task else self.epoch, task.batch if task else None, task.indices if task else None,
                sample, stack, task.attempts if task else 0, stalled, action, again,
            )
        )  # fmt: skip

    # ------------------------------------------------------------ invariants, for tests

    def validate(self) -> None:
        """Raise AssertionError if the books do not balance."""
        self.leases.validate()
        self.ledger.validate()
        self.fleet.validate()
        self.shadows.validate()


def _ignore(event: m.Event) -> None:
    """Nothing of this is wanted any more."""
