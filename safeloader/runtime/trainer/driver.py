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
import sys
import threading
from typing import TYPE_CHECKING, Any

from safeloader import clock
from safeloader.core import messages as m
from safeloader.core.supervisor import Supervisor
from safeloader.errors import ConcurrentUseError, LoaderClosedError
from safeloader.runtime.memory import codec
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.shadow.trainer_side import ShadowProcesses
from safeloader.runtime.trainer.executor import Executor
from safeloader.runtime.trainer.fork_views import Views, track
from safeloader.runtime.trainer.inbox import Inbox
from safeloader.runtime.trainer.inline import InlineBatch
from safeloader.runtime.trainer.journal import Journal
from safeloader.runtime.trainer.process import Process
from safeloader.runtime.trainer.reporting import Reporter
from safeloader.runtime.trainer.shield import Shield

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from safeloader.core.policy import CoreSettings
    from safeloader.core.state import State
    from safeloader.observe.recorder import Recorder
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.pool.shared_pool import SharedPool
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.start.prestarted import Prestarted
    from safeloader.runtime.trainer.executor import Draws
    from safeloader.runtime.trainer.journal import Key
    from safeloader.runtime.trainer.outcome import Outcome

__all__ = ["Driver"]

_LONGEST_SLEEP = 3600.0
_PATIENCE = 1.0  # seconds until it is looked whether the holder of a lock still lives


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
        spec: Payload,
        way: Launcher,
        settings: CoreSettings,
        recorder: Recorder,
        finish: Callable[[Any], Any] | None = None,
        stock: Prestarted | None = None,
        crew: SharedPool | None = None,
    ) -> None:
        self.spec = spec
        self.way = way
        self.stock = stock
        try:
            self.arena = Arena(slots=2 * settings.num_workers * settings.prefetch_factor + 8)
        except BaseException:
            spec.close()
            raise
        self.processes: dict[int, Process] = {}
        self._pids: dict[int, int] = {m.INLINE: os.getpid()}  # of those that are gone
        self.views = Views()
        self.outcome: Outcome | None = None  # what the consumer gets next; it stays until that is certain
        self.here = InlineBatch(None)  # what the trainer made and the consumer has not got, as far as is known
        self.told: list[m.GiveState] = []
        self.closed = False
        self.drawing = False  # the sampler is asked for indices
        self._poll = select.poll()
        self._sources: dict[int, tuple[Any, Callable[[Any], None]]] = {}
        self.shield = Shield()
        self.raised: BaseException | None = None  # what ``next`` raised in the place of a batch
        self._whole = True  # the last call came to its end
        self._lock = threading.Lock()  # of the consumer: one at a time
        self._busy = threading.Lock()  # of the books: the consumer, or whoever looks after this loader for a moment
        self._attended_by = 0
        self.due = math.inf  # the next deadline, for the others of the pool
        self._crew = crew
        self._news = -1 if crew is None else crew.standbys.descriptor
        self._close_wanted = False
        self._owner = os.getpid()
        codec.Decoded.register(spec.config.token, spec.classes)
        self._reporter = teller = Reporter(self, recorder)
        self.shadows = ShadowProcesses(self, teller.shadowed)
        self._inbox = Inbox(self, teller)
        self.executor = Executor(self, teller, self._inbox, finish)
        self.journal = Journal(Supervisor(settings), self.shield, self._inbox.events, self.executor.execute)
        if crew is not None:
            crew.join(self)
            if self._news >= 0:
                self._poll.register(self._news, select.POLLIN)
        track(self)
        clock.start()

    @property
    def supervisor(self) -> Supervisor:
        return self.journal.supervisor

    # ------------------------------------------------------------ for the iterator

    def begin_epoch(
        self,
        epoch: int,
        draws: Draws,
        shared_seed: int | None,
        told_epoch: int | None = None,
        state: State | None = None,
    ) -> None:
        """Start, or start over, or go on from a state. ``draws`` is its sampler."""
        with self._alone():
            self.journal.run()  # what an interrupt has left undone is the last epoch's
            self.outcome = None
            self.executor.new_epoch(epoch, shared_seed, told_epoch, 0 if state is None or state.over else state.drawn)
        with self._alone(), self.executor.drawing(draws):
            self._look(0.0)
            if state is not None:
                self.tell(m.EpochResumed(state))
            if state is None or state.over:
                self.tell(m.EpochBegan(epoch))
            self.shield.do(self.executor.inspect_stopped)
            self.journal.run()
            if self.way.complaints:
                self._reporter.spawned_instead()

    def state(self, draws: Draws) -> State | None:
        """Where the consumer stands; None if the loader ended before that could be known.

        Right after a new epoch of living workers began, this waits until all of them have begun it.
        """
        request = m.StateRequested(self.outcome is None)
        if self.closed:
            told = [] if self.journal.torn else self.supervisor.handle(request, clock.now())
            return next((c.state for c in told if isinstance(c, m.GiveState)), None)
        with self._alone(), self.executor.drawing(draws):
            self.journal.run()
            request = m.StateRequested(self.outcome is None)
            self.told.clear()
            self.tell(request)
            while not self.told:
                self._wait()
                if self._close_wanted:
                    raise self._closed_error()
            return self.told.pop().state

    def next(self, draws: Draws) -> Any:
        """The next batch, or the error in its place: the same again until ``outcome`` is None.

        Raises:
            StopIteration: the epoch is over.
            SafeLoaderError: no further batch can be had, or this one is bad.
            Exception: what loading this batch raised.
        """
        with self._alone(), self.executor.drawing(draws):
            self.journal.run()
            if self.outcome is None:  # else an interrupt came between a batch and its consumer
                self.here.value = None  # the consumer has got it: nothing here keeps it any more
                self.tell(m.BatchRequested())
            with self._awaiting():
                while self.outcome is None:
                    self._wait()
                    if self._close_wanted:
                        raise self._closed_error()
            if self.way.complaints:
                self._reporter.spawned_instead()
            outcome = self.outcome
            error = None if outcome.fail is None else self._error(outcome.fail)
        if error is None:
            return outcome.batch
        self.raised = error
        try:
            raise error
        finally:
            del error  # its traceback knows this frame

    def _error(self, fail: Callable[[], Any]) -> BaseException:
        """What comes in the place of a batch; told once, though the consumer may be interrupted meanwhile."""
        try:
            self.shield.run(("fail", id(self.outcome)), fail)
        except BaseException as error:
            return self.shield.genuine(error)
        raise AssertionError("nothing was raised")

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
        if not self._lock.acquire(blocking=False) and self._in_use():
            raise ConcurrentUseError(
                "two threads asked the same iterator for a batch at the same time",
                hint="give each thread its own loader, or guard next() with a lock",
            )
        try:
            while not self._busy.acquire(timeout=_PATIENCE) and _is_at(self, _ATTENDING):
                pass  # else whoever attended was broken off
            try:
                self.shield.settle()
                if self.closed:
                    raise self._closed_error()
                if not self._whole:
                    for process in list(self.processes.values()):
                        self._inbox.hear(process)  # it may have been read, and not been understood
                self._whole = False
                yield
                self.due, self._whole = self.supervisor.next_deadline(), True
                self.shield.forget()
            finally:
                self._busy.release()
        finally:
            self._lock.release()
            if self._close_wanted:
                self.close()

    def _in_use(self) -> bool:
        """Whether some thread holds the lock, or an interrupt has kept its holder from releasing it."""
        return _is_at(self, _ENTRIES, besides=1)

    def _closed_error(self) -> LoaderClosedError:
        if os.getpid() != self._owner:
            return LoaderClosedError(
                f"this iterator belongs to process {self._owner}, of which this process ({os.getpid()}) is a fork: "
                "its batches are the parent's",
                hint="begin an epoch of its own here with iter(loader), which starts processes of its own",
            )
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
        self._look(min(max(deadline - clock.now(), 0.0), _LONGEST_SLEEP))
        if self._crew is not None:
            self._crew.look_after_others(self)
            if self._crew.has_losses:
                self.shield.do(self._tell_losses)

    def _tell_losses(self) -> None:
        for loss in self._crew.losses() if self._crew is not None else ():
            self._reporter.standby_lost(loss)

    def _look(self, seconds: float) -> None:
        """Hear everything there is to hear, waiting at most ``seconds`` for the first thing."""
        for descriptor, events in self._poll.poll(int(seconds * 1000) + (seconds > 0)):
            source = self._sources.get(descriptor)
            if source is None or (self._close_wanted and not self.closed):
                if descriptor == self._news and self._crew is not None:
                    self.shield.do(self._crew.notice)
                continue
            process, hear = source
            if events & select.POLLOUT and not process.channel.flush():
                self._poll.modify(descriptor, select.POLLIN)
            if events & ~select.POLLOUT:
                hear(process)
        if self.journal.inbox:
            self.journal.run()
        if self.supervisor.next_deadline() <= clock.now():
            self.tell(m.ClockAdvanced())

    def tell(self, event: m.Event) -> None:
        """Tell an event, carry out the commands, and whatever follows from that, in order."""
        if self.views.returned or self.views.kept:
            self.views.tell_free(self._leases_returned)
        self.journal.inbox.append(event)
        self.journal.run()

    def _leases_returned(self, leases: Iterable[m.Lease]) -> None:
        self.journal.inbox.extend(map(m.LeaseReturned, leases))

    def attend(self, stopped: bool = False) -> None:
        """Another loader of the pool waits, perhaps for what this one's samples do: look whether something is due.

        Args:
            stopped: look for processes that somebody stopped, too.
        """
        if self.shield.busy or not self._busy.acquire(blocking=False):
            return  # its own consumer is at it
        self._attended_by = threading.get_ident()
        try:
            if not self.closed:
                self._look(0.0)
                if stopped:
                    self.shield.do(self.executor.inspect_stopped)
                    self.journal.run()
                self.due = self.supervisor.next_deadline()
        finally:
            self._attended_by = 0
            self._busy.release()
            if self._close_wanted:
                self.close()

    @property
    def busy(self) -> bool:
        return self._busy.locked()

    # ------------------------------------------------------------ what is listened to

    def start(self, number: int, standby: bool, shadow: int | None = None) -> Process:
        """A process of its own, or one that a shadow makes, or a seat in one of the pool's.

        Raises:
            OSError: the system cannot start another.
        """
        if self._crew is not None:
            return self._crew.seat(self, number)
        if shadow is not None:
            return self.shadows.make(shadow, number, self.arena)
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
        self.listen(process.channel.fileno(), process, self._inbox.hear)
        if process.pidfd >= 0:
            self.listen(process.pidfd, process, self._inbox.notice_exit)

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

    def listen(self, descriptor: int, process: Any, hear: Callable[[Any], None]) -> None:
        """Have ``hear`` called with a process, or a shadow, when its descriptor can be read."""
        self._sources[descriptor] = (process, hear)
        self._poll.register(descriptor, select.POLLIN)

    def do_and_tell(self, act: Callable[[], m.Event]) -> None:
        """Do something to its end, and tell what came of it."""
        self.shield.do(lambda: self.journal.inbox.append(act()))

    def forget(self, descriptor: int) -> None:
        if self._sources.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def send(self, number: int, key: Key, *message: Any) -> None:
        """Send a message, once for each key; what does not fit into the channel follows as soon as there is room."""
        process = self.processes.get(number)
        if process is not None and process.channel.send(message, key) and process.channel.fileno() in self._sources:
            self._poll.modify(process.channel.fileno(), select.POLLIN | select.POLLOUT)

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End all processes: asked first, killed after the stop timeout. Bounded, and safe to call at any time.

        From another thread, or a signal handler, while a batch is awaited: that call raises LoaderClosedError.
        """
        if self.closed or os.getpid() != self._owner:
            return  # in a fork of the trainer they are not its processes
        if self._attended_by == threading.get_ident() or (not self._lock.acquire(blocking=False) and self._in_use()):
            self._close_wanted = True
            for process in list(self.processes.values()):
                process.release()  # wakes whoever waits for a batch
            return
        self.shield.run(("close",), self._end)

    def _end(self) -> None:
        """Runs in the shield's thread, to its end."""
        try:
            with self._busy:
                self.closed = True
                self.tell(m.CloseRequested())
                while self.processes and self.supervisor.next_deadline() < math.inf:
                    self._wait()
        finally:
            self._lock.release()
            self._let_go()

    def leave(self) -> None:
        """This process is a fork of the trainer: the processes, and what they are told, are the parent's.

        The books stay as they were, so that the fork can still write down where its parent stood; unless they were
        being written to. Nothing is said to anybody: what is closed here stays open in the parent.
        """
        if self.closed:
            return
        self.closed = True
        for process in self.processes.values():
            process.channel.close()
        self.shadows.leave()
        self.arena.close()

    def _let_go(self) -> None:
        for process in list(self.processes.values()):
            process.release()
            self.remove(process)
            process.close()
        self.shadows.drop_all()
        if self._crew is not None:
            self._crew.part(self)
        codec.Decoded.forget(self.spec.config.token)
        self.views.handed_over()
        self.spec.close()
        self.arena.close()
        self.journal.close()  # what it calls refers to this object, which else would wait for the garbage collector
        self.executor = self._inbox = self._reporter = self.shadows = None  # type: ignore[assignment]


_ENTRIES = frozenset(method.__code__ for method in (Driver.begin_epoch, Driver.state, Driver.next, Driver.close))
_ATTENDING = frozenset({Driver.attend.__code__})


def _is_at(driver: Driver, codes: frozenset[Any], besides: int = 0) -> bool:
    """Whether more than so many calls of these methods of a driver are under way, in any thread."""
    found = 0
    for frame in sys._current_frames().values():
        at: FrameType | None = frame
        while at is not None:
            found += at.f_code in codes and at.f_locals.get("self") is driver
            at = at.f_back
    return found > besides
