"""The one door of the core: ``handle(event, now) -> list[Command]``, and ``next_deadline()``.

Theory of operation. The *books* hold what all parts share, and the list of commands, in the order in which they are to
be carried out. The *schedule* knows which tasks are planned and whose turn it is; the *fleet* which processes there are
and which worker lives where; *dispatch* what goes out to them, *answers* what comes back, *deadlines* how long that may
take; the *shadows* which copies of processes there are. When a process is gone, *recovery* puts the books right,
*quarantine* judges the task that was in work, and *restoring* leads its workers back to their places. A part knows the
books and the parts before it; the supervisor alone knows all.

``handle()`` goes through fixed phases. One part takes the *event*, and marks in the books what others have to see to.
Then the supervisor lets a worker *move* of which something is finished, *balances* the fleet, which also sends what
waits, gives the *state* if somebody asked for it, and *delivers* the next batch if the consumer waits. Closing replaces
the table of handlers: then only the end of processes counts.
Wart: ``handle`` is not reentrant; the driver queues the events that carrying out a command produces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.answers import Answers
from safeloader.core.books import Books
from safeloader.core.consumer import ConsumerProgress, Rewinding
from safeloader.core.deadlines import DeadlineWatch
from safeloader.core.dispatch import Dispatch
from safeloader.core.fleet import Fleet
from safeloader.core.quarantine import Quarantine
from safeloader.core.recovery import Recovery
from safeloader.core.restoring import Returning
from safeloader.core.schedule import Schedule
from safeloader.core.shadows import Shadows
from safeloader.core.story import Story
from safeloader.core.view import View, view

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.leases import Leases
    from safeloader.core.policy import CoreSettings
    from safeloader.core.records import Task, WorkerRecord

__all__ = ["Supervisor"]


class Supervisor:
    """Decides everything about one loader's tasks, workers and processes.

    Args:
        settings: what policy wants.
        story_length: how many events are remembered.
    """

    def __init__(self, settings: CoreSettings, story_length: int = 512) -> None:
        self.story = Story(story_length)
        self._books = books = Books(settings)
        self.shadows = Shadows(books)
        self.returning = Returning(books, self.shadows, self.give_up)
        self.schedule = Schedule(books)
        self.watch = DeadlineWatch(books)
        self.quarantine = Quarantine(books, self.schedule)
        sending = (books, self.shadows, self.returning, self.schedule, self.watch, self.quarantine)
        self.dispatch = Dispatch(*sending)
        self.answers = Answers(*sending, self.dispatch)
        self.progress = ConsumerProgress(books, self.schedule, self.watch, self.dispatch)
        self.rewinding = Rewinding(books, self.schedule, self.progress, self.dispatch)
        self.fleet = Fleet(books, self.shadows, self.watch, self.dispatch)
        self.recovery = Recovery(
            books, self.shadows, self.returning, self.schedule, self.quarantine, self.fleet, self.give_up
        )  # fmt: skip
        self._given_up: m.GiveUp | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.EpochBegan: self._epoch_began,
            m.EpochResumed: self._epoch_resumed,
            m.ClockAdvanced: self._clock_advanced,
            m.CloseRequested: self._close_requested,
            **self.progress.handlers(),
            **self.rewinding.handlers(),
            **self.schedule.handlers(),
            **self.dispatch.handlers(),
            **self.answers.handlers(),
            **self.watch.handlers(),
            **self.shadows.handlers(),
            **self.recovery.handlers(),
        }

    # ------------------------------------------------------------ the door

    def handle(self, event: m.Event, now: float) -> list[m.Command]:
        """Take one fact, return what is to be done, in order."""
        books = self._books
        out: list[m.Command] = []
        books.out, books.now = out, now
        self._handlers[type(event)](event)
        if books.progressed is not None:
            worker, books.progressed = books.progressed, None
            self.fleet.progressed(worker)
        if books.unbalanced:
            self.fleet.balance()
        if self.progress.wanted:
            self.progress.advance()
        if self.schedule.requested:
            given = self.schedule.advance()
            if type(given) is m.Deliver:
                if books.fell_back or self.fleet.rung != self.fleet.rungs[0]:
                    self.fleet.good_batch()
            elif type(given) is m.EndEpoch:
                self.progress.end()
            elif given is None and self.schedule.queue:
                self.dispatch.load_inline()
        self.story.add(now, event, out)
        books.out = []  # what was said is the driver's: keep no batch alive
        return out

    def next_deadline(self) -> float:
        """The time at which ``ClockAdvanced`` should be told, ``inf`` if none."""
        return self.fleet.next_deadline()

    def view(self) -> View:
        """What an observer may see, from another thread, too."""
        return view(self._books, self.schedule)

    @property
    def settings(self) -> CoreSettings:
        return self._books.settings

    @property
    def closed(self) -> bool:
        return self._books.closed

    @property
    def epoch(self) -> int:
        return self._books.epoch

    @property
    def leases(self) -> Leases:
        return self._books.leases

    @property
    def workers(self) -> list[WorkerRecord]:
        return self._books.workers

    @property
    def tasks(self) -> dict[int, Task]:
        """Those that are planned and neither delivered nor dropped."""
        return self.schedule.tasks

    # ------------------------------------------------------------ beginnings and ends

    def _epoch_began(self, event: m.EpochBegan) -> None:
        self.schedule.begin(event.epoch)
        self.progress.begin()
        self.fleet.balance()
        self.schedule.plan_ahead()

    def _epoch_resumed(self, event: m.EpochResumed) -> None:
        assert self.epoch < 0, "only as the first event"
        self.progress.restore(event.state)
        self.watch.deadlines.learned = event.state.slowest
        self.schedule.restore(event.state)
        self.fleet.balance()
        if not event.state.exhausted:
            self.schedule.plan_ahead()

    def _clock_advanced(self, event: m.ClockAdvanced) -> None:
        for process in list(self._books.processes.values()):
            if self.watch.passed(process):
                self.recovery.lose(process, None)

    def _close_requested(self, event: m.CloseRequested) -> None:
        self.close()

    def close(self) -> None:
        """Want nothing any more, and end all processes."""
        if self.closed:
            return
        self.progress.close()
        self._books.closed = True
        self.schedule.requested = self.progress.wanted = False
        self.schedule.abandon_rest()
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
        self._books.emit(self._given_up)
        self.close()

    def _refuse(self, event: m.BatchRequested) -> None:
        for lease in event.leases:
            self.schedule.give_back(lease)
        if self._given_up is not None:
            self._books.emit(self._given_up)

    # ------------------------------------------------------------ invariants, for tests

    def validate(self) -> None:
        """Raise AssertionError if the books do not balance."""
        assert self._books.progressed is None and not self._books.out, "a mark was not seen to"
        self.leases.validate()
        self.schedule.validate()
        self.fleet.validate()
        self.shadows.validate()


def _ignore(event: m.Event) -> None:
    """Nothing of this is wanted any more."""
