"""The one loop: tells the supervisor what happened, carries out what it commands, and sleeps in between.

It sleeps until the next deadline or the first message or death, whichever comes first. Everything runs in the thread
that asks for a batch; there is no other. In the steady state a batch costs one read, one write, and no mapping.
``hearing`` makes events of what processes say, ``acting`` carries commands out; this file is what joins them.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..core import messages as m
from ..core.supervisor import Supervisor
from ..errors import ConcurrentUseError, LoaderClosedError
from . import codec
from .acting import Acting
from .arena import Arena
from .hearing import Hearing
from .process import Process
from .tell import Teller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..core.policy import CoreSettings
    from ..core.state import State
    from ..observe.recorder import Recorder
    from .crew import Crew
    from .spec import Spec
    from .start.stock import Stock
    from .start.way import Way

__all__ = ["Driver"]

_LONGEST_SLEEP = 3600.0


class Driver:
    """Runs one loader's processes and delivers its batches.

    Args:
        spec: what processes are given; closed with the driver.
        way: how processes come to be.
        settings: what policy wants.
        recorder: where faults are told.
        finish: turns a batch into what the consumer gets (pinning), or None.
        stock: processes that were started beforehand; they go first.
        crew: the pool whose processes it uses; None for processes of its own.
    """

    def __init__(
        self,
        spec: Spec,
        way: Way,
        settings: CoreSettings,
        recorder: Recorder,
        finish: Callable[[Any], Any] | None = None,
        stock: Stock | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.spec = spec
        self.way = way
        self.stock = stock
        try:
            self.arena = Arena(slots=2 * settings.num_workers * settings.prefetch_factor + 8)
        except BaseException:
            spec.close()
            raise
        self.supervisor = Supervisor(settings)
        self.processes: dict[int, Process] = {}
        self._pids: dict[int, int] = {m.INLINE: os.getpid()}  # of those that are gone
        self.returned: deque[m.Lease] = deque()
        self.outcome: Callable[[], Any] | None = None
        self.told: list[m.TellState] = []
        self.closed = False
        self.drawing = False  # the sampler is asked for indices
        self._poll = select.poll()
        self._sources: dict[int, tuple[Process, Callable[[Process], None]]] = {}
        self._events: deque[m.Event] = deque()
        self._commands: deque[m.Command] = deque()
        self._handling = False
        self._lock = threading.Lock()  # of the consumer: one at a time
        self._busy = threading.Lock()  # of the books: the consumer, or whoever looks after this loader for a moment
        self._attended_by = 0
        self.due = math.inf  # the next deadline, for the others of the pool
        self._crew = crew
        self._news = -1 if crew is None else crew.standbys.descriptor
        self._close_wanted = False
        self._owner = os.getpid()
        codec.Decoded.register(spec.config.token, spec.classes)
        self._teller = teller = Teller(self, recorder)
        self._hearing = Hearing(self, teller)
        self._acting = Acting(self, teller, self._hearing, finish)
        self._actions = self._acting.actions()
        if crew is not None:
            crew.join(self)
            if self._news >= 0:
                self._poll.register(self._news, select.POLLIN)

    # ------------------------------------------------------------ for the iterator

    def begin_epoch(
        self,
        epoch: int,
        draw: Callable[[], Any],
        shared_seed: int | None,
        told_epoch: int | None = None,
        state: State | None = None,
    ) -> None:
        """Start, or start over, or go on from a state. ``draw`` gives the next indices or raises StopIteration."""
        with self._alone(), self._acting.drawing(draw):
            self.outcome = None
            self._acting.new_epoch(shared_seed, told_epoch)
            self._look(0.0)
            if state is not None:
                self.tell(m.EpochResumed(state))
            if state is None or state.over:
                self.tell(m.EpochBegan(epoch))
            self._acting.inspect_stopped()
            if self.way.complaints:
                self._teller.spawned_instead()

    def state(self, draw: Callable[[], Any]) -> State | None:
        """Where the consumer stands; None if the loader ended before that could be known.

        Right after a new epoch of living workers began, this waits until all of them have begun it.
        """
        request = m.StateRequested(self.outcome is None)
        if self.closed:
            told = self.supervisor.handle(request, monotonic())
            return next(c.state for c in told if isinstance(c, m.TellState))
        with self._alone(), self._acting.drawing(draw):
            self.told.clear()
            self.tell(request)
            while not self.told:
                self._wait()
                if self._close_wanted:
                    raise self._closed_error()
            return self.told.pop().state

    def next(self, draw: Callable[[], Any]) -> Any:
        """The next batch.

        Raises:
            StopIteration: the epoch is over.
            SafeLoaderError: no further batch can be had, or this one is bad.
            Exception: what loading this batch raised.
        """
        with self._alone(), self._acting.drawing(draw):
            if self.outcome is None:  # else an interrupt came between a batch and its consumer
                self.tell(m.BatchRequested())
            with self._awaiting():
                while self.outcome is None:
                    self._wait()
                    if self._close_wanted:
                        raise self._closed_error()
            if self.way.complaints:
                self._teller.spawned_instead()
            outcome, self.outcome = self.outcome, None
        return outcome()

    @property
    def delivered(self) -> deque[tuple[int, int, int | None, object]]:
        """(epoch, batch, worker, indices) of the last batches, newest last."""
        return self.supervisor.ledger.delivered

    @contextlib.contextmanager
    def _awaiting(self) -> Iterator[None]:
        """Let a pool's processes know that somebody waits: they go on with that first."""
        try:
            yield
        finally:
            if self._crew is not None:
                for process in self.processes.values():
                    process.page.wait(False)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self.closed:
            raise self._closed_error()
        if not self._lock.acquire(blocking=False):
            raise ConcurrentUseError(
                "two threads asked the same iterator for a batch at the same time",
                hint="give each thread its own loader, or guard next() with a lock",
            )
        try:
            with self._busy:
                yield
                self.due = self.supervisor.next_deadline()
        finally:
            self._lock.release()
            if self._close_wanted:
                self.close()

    @staticmethod
    def _closed_error() -> LoaderClosedError:
        return LoaderClosedError(
            "this iterator is closed",
            hint="begin a new epoch with iter(loader), or make a new loader if the loader was closed",
        )

    # ------------------------------------------------------------ the loop

    def _wait(self) -> None:
        self.due = deadline = self.supervisor.next_deadline()
        if self._crew is not None:
            deadline = min(deadline, self._crew.next_deadline(self))
            for process in self.processes.values():
                process.page.wait(True)
        self._look(min(max(deadline - monotonic(), 0.0), _LONGEST_SLEEP))
        if self._crew is not None:
            self._crew.look_after_others(self)
            for loss in self._crew.losses():
                self._teller.standby_lost(loss)

    def _look(self, seconds: float) -> None:
        """Hear everything there is to hear, waiting at most ``seconds`` for the first thing."""
        for descriptor, events in self._poll.poll(int(seconds * 1000) + (seconds > 0)):
            source = self._sources.get(descriptor)
            if source is None or (self._close_wanted and not self.closed):
                if descriptor == self._news and self._crew is not None:
                    self._crew.notice()
                continue
            process, hear = source
            if events & select.POLLOUT and not process.channel.flush():
                self._poll.modify(descriptor, select.POLLIN)
            if events & ~select.POLLOUT:
                hear(process)
        if self.supervisor.next_deadline() <= monotonic():
            self.tell(m.ClockAdvanced())

    def tell(self, event: m.Event) -> None:
        """Tell an event, carry out the commands, and whatever follows from that, in order."""
        while self.returned:
            self._events.append(m.LeaseReturned(self.returned.popleft()))
        self._events.append(event)
        if not self._handling:
            self._handling = True
            try:
                self._run()
            finally:
                self._handling = False

    def attend(self, stopped: bool = False) -> None:
        """Another loader of the pool waits, perhaps for what this one's samples do: look whether something is due.

        Args:
            stopped: look for processes that somebody stopped, too.
        """
        if not self._busy.acquire(blocking=False):
            return  # its own consumer is at it
        self._attended_by = threading.get_ident()
        try:
            if not self.closed:
                self._look(0.0)
                if stopped:
                    self._acting.inspect_stopped()
                self.due = self.supervisor.next_deadline()
        finally:
            self._attended_by = 0
            self._busy.release()
            if self._close_wanted:
                self.close()

    @property
    def busy(self) -> bool:
        return self._busy.locked()

    def later(self, event: m.Event) -> None:
        """Tell an event that carrying out a command produced: after the commands before it."""
        self._events.append(event)

    def _run(self) -> None:
        events, commands, actions = self._events, self._commands, self._actions
        while events or commands:
            while commands:
                command = commands.popleft()
                actions[type(command)](command)
            if events:
                commands.extend(self.supervisor.handle(events.popleft(), monotonic()))

    # ------------------------------------------------------------ what is listened to

    def start(self, number: int, standby: bool) -> Process:
        """A process of its own, or a seat in one of the pool's.

        Raises:
            OSError: the system cannot start another.
        """
        if self._crew is not None:
            return self._crew.seat(self, number)
        modules = self.spec.modules if standby else ()
        process = (self.stock.take() if self.stock is not None else None) or Process(
            self.way, self.spec.surroundings, modules
        )
        process.join(number, self.spec, self.arena)
        return process

    @property
    def relieved(self) -> bool:
        """Whether a process that is ready stands in for one that is lost; only a pool knows that by itself."""
        return self._crew is not None and not self.closed and self._crew.relieves(self)

    def add(self, process: Process) -> None:
        """A process was started: listen to it."""
        self.processes[process.number] = process
        self.listen(process.channel.fileno(), process, self._hearing.hear)
        if process.pidfd >= 0:
            self.listen(process.pidfd, process, self._hearing.notice_exit)

    def remove(self, process: Process) -> None:
        """A process is gone, or abandoned."""
        self._pids[process.number] = process.pid
        del self.processes[process.number]
        for descriptor in (process.channel.fileno(), process.pidfd, process.stacks):
            self.forget(descriptor)

    def pid_of(self, number: int) -> int | None:
        """The pid behind a number of the books, for people; None where it is not known."""
        process = self.processes.get(number)
        return (process.pid if process is not None else self._pids.get(number)) or None

    def listen(self, descriptor: int, process: Process, hear: Callable[[Process], None]) -> None:
        self._sources[descriptor] = (process, hear)
        self._poll.register(descriptor, select.POLLIN)

    def forget(self, descriptor: int) -> None:
        if self._sources.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def send(self, number: int, *message: Any) -> None:
        """Send a message; what does not fit into the channel follows as soon as there is room."""
        process = self.processes.get(number)
        if process is not None and process.channel.send(message) and process.channel.fileno() in self._sources:
            self._poll.modify(process.channel.fileno(), select.POLLIN | select.POLLOUT)

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End all processes: asked first, killed after the stop timeout. Bounded, and safe to call at any time.

        From another thread, or a signal handler, while a batch is awaited: that call raises LoaderClosedError.
        """
        if self.closed or os.getpid() != self._owner:
            return  # in a fork of the trainer they are not its processes
        if self._attended_by == threading.get_ident() or not self._lock.acquire(blocking=False):
            self._close_wanted = True
            for process in list(self.processes.values()):
                process.release()  # wakes whoever waits for a batch
            return
        try:
            with self._busy:
                self.closed = True
                self.tell(m.CloseRequested())
                while self.processes and self.supervisor.next_deadline() < math.inf:
                    self._wait()
        finally:
            self._lock.release()
            self._let_go()

    def _let_go(self) -> None:
        for process in list(self.processes.values()):
            process.release()
            self.remove(process)
            process.close()
        if self._crew is not None:
            self._crew.part(self)
        codec.Decoded.forget(self.spec.config.token)
        self.spec.close()
        self.arena.close()
        self._actions = {}  # they refer to this object, which else would wait for the garbage collector
        self._acting = self._hearing = self._teller = None  # type: ignore[assignment]
