"""What a loader's iterator speaks to: who may ask, what the consumer gets, and the end.

Everything runs in the thread that asks for a batch; there is no other. In the steady state a batch costs one read, one
write, and no mapping.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

from safeloader import clock
from safeloader.core import messages as m
from safeloader.errors import StartError
from safeloader.runtime.memory import codec
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.trainer.alone import Alone
from safeloader.runtime.trainer.callers import are_under_way, closed_error
from safeloader.runtime.trainer.fork_views import Views, track
from safeloader.runtime.trainer.inline import InlineBatch
from safeloader.runtime.trainer.loop import Loop
from safeloader.runtime.trainer.shield import Shield

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Sequence

    from safeloader.core.policy import CoreSettings
    from safeloader.core.state import State
    from safeloader.core.supervisor import Supervisor
    from safeloader.observe.recorder import Recorder
    from safeloader.runtime.memory.pinned import PinnedSlots
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.pool.shared_pool import SharedPool
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.start.prestarted import Prestarted
    from safeloader.runtime.trainer.planner import Draws
    from safeloader.runtime.trainer.ports import Outcome

__all__ = ["Driver"]

_NEXT = m.BatchRequested()


class Driver:
    """Runs one loader's processes and delivers its batches.

    Args:
        spec: what processes are given; closed with the driver.
        launcher: how processes come to be.
        settings: what policy wants.
        recorder: where faults are told.
        finish: turns a batch into what the consumer gets (pinning), or None.
        prestarted: processes that were started beforehand; they go first.
        shared_pool: the pool whose processes it uses; None for processes of its own.
        pinned: slots that are pinned where they lie; None for slots that are not.
    """

    def __init__(
        self,
        spec: Payload,
        launcher: Launcher,
        settings: CoreSettings,
        recorder: Recorder,
        finish: Callable[[Any], Any] | None = None,
        prestarted: Prestarted | None = None,
        shared_pool: SharedPool | None = None,
        pinned: PinnedSlots | None = None,
    ) -> None:
        self.spec = spec
        self.launcher = launcher
        try:
            self.arena = _arena(2 * settings.num_workers * settings.prefetch_factor + 8, pinned)
        except BaseException:
            spec.close()
            raise
        self.views = Views(pinned)
        self.outcome: Outcome | None = None  # what the consumer gets next; it stays until that is certain
        self.here = InlineBatch(None)  # what the trainer made and the consumer has not got, as far as is known
        self.told: list[m.GiveState] = []
        self.closed = False
        self.shield = Shield()
        self.raised: BaseException | None = None  # what ``next`` raised in the place of a batch
        self._whole = True  # the last call came to its end
        self.pooled = shared_pool is not None
        self._lock = threading.Lock()  # of the consumer: one at a time
        self._busy = threading.Lock()  # of the books: the consumer, or whoever looks after this loader for a moment
        self._attended_by = 0
        self.due = math.inf  # the next deadline, for the others of the pool
        self._close_wanted = False
        self._owner = os.getpid()
        codec.Decoded.register(spec.config.token, spec.classes)
        self.loop = Loop(self, launcher, settings, recorder, finish, prestarted, shared_pool)
        self.processes = self.loop.processes
        self.begins = self.loop.executor.begins
        track(self)
        clock.start()

    @property
    def supervisor(self) -> Supervisor:
        return self.loop.supervisor

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
        with Alone(self):
            self.loop.journal.run()  # what an interrupt has left undone is the last epoch's
            self.outcome = None
            drawn = 0 if state is None or state.over else state.drawn
            self.loop.executor.new_epoch(epoch, shared_seed, told_epoch, drawn, state)
        with Alone(self, draws):
            self.loop.look(0.0)
            if state is not None:
                self.loop.tell(m.EpochResumed(state))
            if state is None or state.over:
                self.loop.tell(m.EpochBegan(epoch))
            self.loop.look_for_stopped()
            if self.launcher.complaints:
                self._tell_complaints()

    def state(self, draws: Draws) -> State | None:
        """Where the consumer stands; None if the loader ended before that could be known.

        Right after a new epoch of living workers began, this waits until all of them have begun it.
        """
        request = m.StateRequested(self.outcome is None)
        if self.closed:
            told = [] if self.loop.journal.torn else self.supervisor.handle(request, clock.now())
            return next((c.state for c in told if isinstance(c, m.GiveState)), None)
        with Alone(self, draws):
            self.loop.journal.run()
            request = m.StateRequested(self.outcome is None)
            self.told.clear()
            self.loop.tell(request)
            while not self.told:
                self.loop.wait()
                if self._close_wanted:
                    raise closed_error(self._owner)
            return self.told.pop().state

    def rewind(self, draws: Draws, batches: int) -> bool:
        """The consumer wants so many of the last batches that it got again. False: so many are not known."""
        with Alone(self, draws):
            self.loop.journal.run()
            if batches > self.supervisor.rewinding.known(received=self.outcome is None):
                return False
            self.loop.journal.do_and_tell(lambda: self._taken_back(batches))
            self.loop.journal.run()
            return True

    def _taken_back(self, batches: int) -> m.Event:
        """What an interrupt has kept from the consumer comes again, too."""
        received, self.outcome, self.here.value = self.outcome is None, None, None
        return m.RewindRequested(batches, received)

    @property
    def changed(self) -> bool:
        """Whether a worker's dataset was seen to change itself."""
        return any(worker.changed for worker in self.supervisor.workers)

    def next(self, draws: Draws) -> Any:
        """The next batch, or the error in its place: the same again until ``outcome`` is None.

        Raises:
            StopIteration: the epoch is over.
            SafeLoaderError: no further batch can be had, or this one is bad.
            Exception: what loading this batch raised.
        """
        with Alone(self, draws):
            journal, views = self.loop.journal, self.views
            journal.run()
            if self.outcome is None:  # else an interrupt came between a batch and its consumer
                self.here.value = None  # the consumer has got it: nothing here keeps it any more
                if views.returned or views.have_come_back:  # what it has let go of comes back with that
                    views.tell_free(self._ask)
                else:
                    journal.inbox.append(_NEXT)
                journal.run()
                if self.outcome is None:
                    self._await()
            if self.launcher.complaints:
                self._tell_complaints()
            outcome = self.outcome
            assert outcome is not None
            error = None if outcome.fail is None else self._error(outcome.fail)
        if error is None:
            return outcome.batch
        self.raised = error
        try:
            raise error
        finally:
            del error  # its traceback knows this frame

    def _ask(self, leases: Sequence[m.Lease]) -> None:
        self.loop.journal.inbox.append(m.BatchRequested(tuple(leases)))

    def _error(self, fail: Callable[[], Any]) -> BaseException:
        """What comes in the place of a batch; told once, though the consumer may be interrupted meanwhile."""
        try:
            self.shield.run(("fail", id(self.outcome)), fail)
        except BaseException as error:
            return self.shield.genuine(error)
        raise AssertionError("nothing was raised")

    def _tell_complaints(self) -> None:
        try:
            self.loop.reporter.start_complaints()
        except StartError:
            self.close()
            raise

    @property
    def drawing(self) -> bool:
        """Whether the sampler is asked for indices now."""
        return self.loop.planner.asking

    @property
    def delivered(self) -> deque[tuple[int, int, int | None, object]]:
        """(epoch, batch, worker, indices) of the last batches, newest last."""
        return self.supervisor.schedule.delivered

    def _await(self) -> None:
        try:
            while self.outcome is None:
                self.loop.wait()
                if self._close_wanted:
                    raise closed_error(self._owner)
        finally:
            self.loop.hurry(False)

    def _let_go(self) -> None:
        self._lock.release()
        if self._close_wanted:
            self.close()

    def _in_use(self) -> bool:
        """Whether some thread holds the lock, or an interrupt has kept its holder from releasing it."""
        return are_under_way(self, _ENTRIES, besides=1)

    def _is_attended(self) -> bool:
        """Whether somebody looks after this loader; else whoever had its books was broken off."""
        return are_under_way(self, _ATTENDING)

    # ------------------------------------------------------------ for the loop, and for the others of a pool

    def listens(self) -> bool:
        return self.closed or not self._close_wanted

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
                self.loop.look(0.0)
                if stopped:
                    self.loop.look_for_stopped()
                self.due = self.supervisor.next_deadline()
        finally:
            self._attended_by = 0
            self._busy.release()
            if self._close_wanted:
                self.close()

    @property
    def busy(self) -> bool:
        return self._busy.locked()

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
                self.loop.tell(m.CloseRequested())
                while self.processes and self.supervisor.next_deadline() < math.inf:
                    self.loop.wait()
        finally:
            self._lock.release()
            self.loop.close()

    def leave(self) -> None:
        """This process is a fork of the trainer: the processes, and what they are told, are the parent's.

        The books stay as they were, so that the fork can still write down where its parent stood; unless they were
        being written to. Nothing is said to anybody: what is closed here stays open in the parent.
        """
        if self.closed:
            return
        self.closed = True
        self.loop.leave()
        self.arena.close()


def _arena(slots: int, pinned: PinnedSlots | None) -> Arena:
    if pinned is None:
        return Arena(slots=slots)
    from safeloader.runtime.memory.pinned import PinnedArena

    return PinnedArena(pinned, slots)


_ENTRIES = frozenset(method.__code__ for method in (Driver.begin_epoch, Driver.state, Driver.next, Driver.close))
_ATTENDING = frozenset({Driver.attend.__code__})
