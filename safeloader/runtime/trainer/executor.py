"""The supervisor's commands, carried out."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, cast

from safeloader import clock
from safeloader.core import messages as m
from safeloader.runtime import by_value, system
from safeloader.runtime import protocol as p
from safeloader.runtime.child.generators import States
from safeloader.runtime.child.worker import Ended, WorkerPlace
from safeloader.runtime.memory import codec
from safeloader.runtime.trainer.indices import own_copy, pack
from safeloader.runtime.trainer.inline import (
    InlineBatch,
    InlineHost,
    Irreversible,
    NotEncodable,
)
from safeloader.runtime.trainer.outcome import Outcome
from safeloader.runtime.trainer.watchdog import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safeloader.core.state import Redo
    from safeloader.runtime.trainer.driver import Driver
    from safeloader.runtime.trainer.inbox import Inbox
    from safeloader.runtime.trainer.journal import Key
    from safeloader.runtime.trainer.process import Process
    from safeloader.runtime.trainer.reporting import Reporter

__all__ = ["Executor", "Draws"]

_Batch = tuple[bytes, "tuple[int, int] | None", "list[tuple[int, int]]", int]


class Draws(Protocol):
    """The sampler of an epoch."""

    def draw(self, drawn: list[Any]) -> None:
        """Add the next indices to the list, if there are any."""

    def mend_draws(self, count: int) -> None:
        """An exception came while it was asked: be where it was after so many draws."""


class Executor:
    """Acts for one driver; decides nothing."""

    def __init__(self, driver: Driver, teller: Reporter, hearing: Inbox, finish: Callable[[Any], Any] | None) -> None:
        self._driver = driver
        self._reporter = teller
        self._inbox = hearing
        self._finish = finish
        self._inline = InlineHost(driver.spec.config.load, driver.spec, teller.not_undone)
        self._draws: Draws | None = None
        self._broken = False  # an exception came while the sampler was asked
        self._counted: tuple[Key, int] = (0, -1), 0  # draws in this epoch, the last of them included
        self._draw_error: Exception | None = None
        self._owed: deque[Key] = deque()
        self._shared_seed: int | None = None
        self._told_epoch: int | None = None
        self._epochs: dict[int, tuple[int | None, int, int | None]] = {}  # what each begins with
        self._drawn: tuple[Key, list[Any]] = (0, -1), []
        self._actions()

    def execute(self, command: m.Command, key: Key, again: bool) -> None:
        """Carry a command out. What comes with every batch is done here and now, and may be begun again; the rest is
        done by the shield, once."""
        usual = self._usual.get(type(command))
        if usual is not None:
            usual(command, key, again)
        elif getattr(command, "process", None) == m.INLINE and type(command) in self._inlined:
            self._inlined[type(command)](command, key, again)
        else:
            self._driver.shield.run(("command", *key), lambda: self._seldom[type(command)](command, key))

    def _actions(self) -> None:
        teller = self._reporter
        self._usual: dict[type, Callable[[Any, Key, bool], None]] = {
            m.PlanTask: self._plan_task,
            m.SendTask: self._send_task,
            m.LoadInline: self._load_inline,
            m.Deliver: self._deliver,
            m.DeliverError: self._deliver_error,
            m.DeliverBadSample: lambda c, *_: self._fail_with(lambda: teller.raise_bad_sample(c)),
            m.EndEpoch: lambda c, *_: self._fail_with(self._end_epoch),
            m.GiveUp: lambda c, *_: self._fail_with(lambda: self._give_up(c)),
            m.GiveState: lambda c, *_: self._driver.told.append(c),
        }
        self._inlined: dict[type, Callable[[Any, Key, bool], None]] = {
            m.HostWorker: self._host_inline,
            m.DropWorker: lambda c, *_: self._inline.drop(c.worker),
            m.ResumeWorker: self._resume_inline,
        }
        self._seldom: dict[type, Callable[[Any, Key], None]] = {
            m.StartProcess: self._start_process,
            m.DropShadow: lambda c, _: self._driver.shadows.drop(c.shadow),
            m.HostWorker: self._host_worker,
            m.DropWorker: lambda c, key: self._driver.send(c.process, key, p.DROP, c.worker),
            m.ResumeWorker: self._resume_worker,
            m.CancelBefore: lambda c, _: self._with(c.process, lambda process: process.page.cancel_before(c.before)),
            m.SendProbe: self._send_probe,
            m.InspectProcess: self._inspect,
            m.CaptureStacks: lambda c, _: self._with(c.process, self._inbox.await_stacks),
            m.KillProcess: lambda c, _: self._with(c.process, lambda process: process.kill()),
            m.StopProcess: lambda c, _: self._with(c.process, lambda process: process.ask_to_end()),
            m.AbandonProcess: lambda c, _: self._with(c.process, self._abandon),
            m.FreeSlot: lambda c, _: self._driver.arena.free(c.slot),
            m.ReportFault: lambda c, _: teller.fault(c),
            m.ReportReplay: lambda c, _: teller.replayed(c),
            m.ReportRung: lambda c, _: teller.rung(c),
            m.ReportSlow: lambda c, _: teller.slow(c),
            m.ReportSlowStart: lambda c, _: self._with(
                c.process, lambda process: teller.slow_start(process, c.seconds)
            ),
            m.ReportSkipped: lambda c, _: teller.skipped(c),
            m.ReportRefused: lambda c, _: teller.refused(c),
        }

    # ------------------------------------------------------------ planning

    def new_epoch(self, epoch: int, shared_seed: int | None, told_epoch: int | None, drawn: int) -> None:
        self._draw_error = None
        self._broken, self._counted = False, (self._counted[0], drawn)
        self._owed.clear()
        self._shared_seed, self._told_epoch = shared_seed, told_epoch
        self._epochs[epoch] = shared_seed, epoch, told_epoch

    @contextlib.contextmanager
    def drawing(self, draws: Draws) -> Iterator[None]:
        """Within this context the sampler can be asked; beyond it, nothing here keeps the iterator alive.

        Draws that fall due in between, when another loader of the pool looks after this one, are made up for.
        """
        self._draws = draws
        try:
            while self._owed:
                self._plan_task(m.PlanTask(), self._owed[0], True)
                self._owed.popleft()
            yield
        finally:
            self._draws = None

    def _plan_task(self, c: m.PlanTask, key: Key, again: bool) -> None:
        if self._draws is None:
            if not self._owed or self._owed[-1] != key:
                self._owed.append(key)
            return
        self._driver.journal.later(key, self._planned(key), again)

    def _planned(self, key: Key) -> m.Event:
        if self._drawn[0] != key:
            self._drawn = key, []
        drawn = self._drawn[1]
        if self._draw_error is not None or self._draws is None:
            return m.PlanEnded()
        if not drawn:
            self._driver.drawing = True
            try:
                self._draw(self._draws, key, drawn)
            finally:
                self._driver.drawing = False
        if drawn and self._counted[0] != key:
            self._counted = key, self._counted[1] + 1
        return m.TaskPlanned(own_copy(drawn[0])) if drawn else m.PlanEnded()

    def _draw(self, draws: Draws, key: Key, drawn: list[Any]) -> None:
        """Ask the sampler. What it raises is raised when the batches planned before have been delivered.

        An exception from outside, say a signal's, ends a sampler that is a generator: then another is brought to its
        place. It is from outside if the sampler does not raise the like there.
        """
        shield = self._driver.shield
        try:
            if self._broken:
                shield.run(("mend", *key), lambda: draws.mend_draws(self._counted[1]))
                self._broken = False
            draws.draw(drawn)
        except Exception as error:
            self._broken = True
            try:
                shield.do(lambda: self._draw_again(draws, drawn))
            except Exception as second:
                shield.genuine(second)
                self._draw_error = error
            else:
                self._broken = False
                raise
        except BaseException:
            self._broken = True
            raise

    def _draw_again(self, draws: Draws, drawn: list[Any]) -> None:
        if not drawn:
            draws.mend_draws(self._counted[1])
            draws.draw(drawn)

    # ------------------------------------------------------------ processes

    def _with(self, number: int, act: Callable[[Process], None]) -> None:
        process = self._driver.processes.get(number)
        if process is not None:
            act(process)

    def _start_process(self, c: m.StartProcess, key: Key) -> None:
        try:
            process = self._driver.start(c.process, c.standby, c.shadow)
        except OSError as error:
            self._tell(m.ProcessExited(c.process, system.explained(error), None, None, None, None, False))
        else:
            self._driver.add(process)
            if process.ready:
                self._reporter.started(process)
                self._tell(m.ProcessReady(c.process))

    def _tell(self, event: m.Event) -> None:
        self._driver.journal.inbox.append(event)

    def _inspect(self, c: m.InspectProcess, key: Key) -> None:
        self._with(c.process, lambda process: self._tell(self._inspected(process)))

    @staticmethod
    def _inspected(process: Process) -> m.Event:
        state = process.state()
        elsewhere, there = process.elsewhere(state)
        if process.forfeited():
            return m.ProcessLostElsewhere(process.number)
        task, setup, sample, taken_at, progressed_at = process.page.read()[:5]
        taken_at, progressed_at = clock.at(taken_at), clock.at(max(progressed_at, there))
        return m.ProcessInspected(process.number, task, setup, sample, taken_at, progressed_at, state, elsewhere)

    def inspect_stopped(self) -> None:
        """Tell of processes that somebody stopped, before an epoch waits for them."""
        for process in list(self._driver.processes.values()):
            if process.state() == "T":
                self._tell(self._inspected(process))

    def _abandon(self, process: Process) -> None:
        self._driver.remove(process)
        process.close()

    # ------------------------------------------------------------ workers and tasks

    def _place(self, c: m.HostWorker) -> WorkerPlace:
        return WorkerPlace(
            c.worker, c.epoch, c.position, c.ended, _states(c.epoch_snapshot), _states(c.snapshot), self._shared_seed,
            self._told_epoch, c.mark and (c.mark.position, c.mark.content, _states(c.mark.snapshot)), c.replay,
            c.digests,
        )  # fmt: skip

    def _host_inline(self, c: m.HostWorker, key: Key, again: bool) -> None:
        with self._refusing(c.worker, key, again):
            self._driver.journal.later(key, self._hosted_here(c.worker, self._place(c), c.lenient), again)

    def _hosted_here(self, worker: int, place: WorkerPlace, lenient: bool) -> m.Event:
        hosted = self._inline.host(place, lenient)
        if hosted is None:
            return m.WorkerReady(m.INLINE, worker, clock.now())
        if (found := hosted.diverged) is not None:
            return m.WorkerDiverged(m.INLINE, worker, clock.now(), found.how, found.at, found.detail)
        if hosted.lost:
            self._reporter.not_restored(worker, hosted.lost)
        return m.WorkerReady(m.INLINE, worker, clock.now(), self._inline.states(worker), hosted.begin, hosted.compared)

    @contextlib.contextmanager
    def _refusing(self, worker: int, key: Key, again: bool) -> Iterator[None]:
        """Tell of what a worker in the trainer was about to do and could not have undone."""
        try:
            yield
        except Irreversible as refused:
            self._driver.journal.later(key, m.InlineRefused(worker, refused.what), again)

    def _host_worker(self, c: m.HostWorker, key: Key) -> None:
        replay = [(self._carried(indices), skip) for indices, skip in c.replay]
        self._driver.send(c.process, key, p.HOST, self._place(c)._replace(replay=replay, redo=self._redo(c.redo)))

    def _redo(self, redo: tuple[Redo, ...] | None) -> list[tuple[Any, ...]] | None:
        if redo is None:
            return None
        return [
            (False, self._carried(done.indices), done.skip, done.digest)
            if done.epoch is None
            else (True, *self._epochs[done.epoch])
            for done in redo
        ]

    def _resume_inline(self, c: m.ResumeWorker, key: Key, again: bool) -> None:
        with self._refusing(c.worker, key, again):
            said = self._inline.resume(c.worker, self._shared_seed, c.epoch, self._told_epoch, key)
            states = self._inline.states(c.worker)
            self._driver.journal.later(key, m.WorkerResumed(m.INLINE, c.worker, clock.now(), states, said), again)

    def _resume_worker(self, c: m.ResumeWorker, key: Key) -> None:
        self._driver.send(c.process, key, p.RESUME, c.worker, self._shared_seed, c.epoch, self._told_epoch)

    def _send_task(self, c: m.SendTask, key: Key, again: bool) -> None:
        self._driver.send(c.process, key, p.TASK, c.worker, c.task, self._carried(c.indices), c.skip, c.lease.slot)

    def _send_probe(self, c: m.SendProbe, key: Key) -> None:
        self._driver.send(c.process, key, p.PROBE, c.worker, c.task, self._carried(c.indices), c.positions)

    def _carried(self, indices: Any) -> Any:
        """Indices as they are if they are plain numbers, packed if any interpreter can read them, else by value."""
        if type(indices) is list and (not indices or type(indices[0]) is int):
            return indices
        if type(indices) is int:
            return indices
        try:
            data = pack(indices)
        except Exception:
            data = b"__main__"
        if b"__main__" not in data:
            return p.Packed(data)
        return p.Carried(by_value.dumps(indices, self._driver.spec.classes, what={"indices": indices}))

    def _load_inline(self, c: m.LoadInline, key: Key, again: bool) -> None:
        inline, taken_at = self._inline, clock.now()
        event: m.Event

        def digest() -> bytes:
            return inline.digest(c.worker)

        try:
            loaded = inline.load(c.worker, c.indices, c.skip, c.timeout, key)
        except Ended:
            event = m.WorkerEnded(m.INLINE, c.task, inline.states(c.worker), clock.now())
        except Irreversible as refused:
            event = m.InlineRefused(c.worker, refused.what)
        except Interrupted as interrupted:
            event = m.InlineInterrupted(c.task, inline.sample(c.worker), interrupted.stack)
        except NotEncodable as failure:
            states = inline.states(c.worker)
            told = InlineBatch(failure.error)
            event = m.TaskRaised(m.INLINE, c.task, told, "unpicklable", None, states, clock.now(), digest())
        except Exception as error:
            states, sample = inline.states(c.worker), inline.sample(c.worker)
            event = m.TaskRaised(m.INLINE, c.task, InlineBatch(error), "raised", sample, states, clock.now(), digest())
        else:
            batch = None if loaded.empty else InlineBatch(loaded.batch)
            states = inline.states(c.worker)
            event = m.TaskLoaded(m.INLINE, c.task, batch, 0, states, taken_at, clock.now(), loaded.dropped, digest())
            self._reporter.loaded_here(c.task, c.worker, event.finished_at - taken_at)
        self._driver.journal.later(key, event, again)
        if isinstance(event, m.TaskLoaded):
            with self._refusing(c.worker, key, again):
                said = inline.said(c.worker)
                if said is not None:
                    self._driver.journal.later(key, m.WorkerMarked(m.INLINE, c.worker, said), again)

    # ------------------------------------------------------------ outcomes

    def _deliver_error(self, c: m.DeliverError, *_: Any) -> None:
        error = c.error
        if isinstance(error, InlineBatch):
            self._driver.here, error = error, error.value
        self._fail_with(lambda: self._reporter.raise_error(error, self._driver.spec.classes))

    def _fail_with(self, act: Callable[[], Any]) -> None:
        if self._driver.outcome is None:
            self._driver.outcome = Outcome(None, act)

    def _deliver(self, c: m.Deliver, key: Key, again: bool) -> None:
        driver, begun = self._driver, clock.now()
        if again and driver.outcome is not None:
            return
        try:
            batch = self._decode(c)
            if self._finish is not None:
                batch = self._finish(batch)
        except Exception as error:  # say, a class that only the worker can import
            if self._was_interrupted(c):
                raise
            failure = error
            self._fail_with(lambda: self._reporter.raise_undecodable(c.task, failure))
        else:
            if driver.outcome is None:
                driver.outcome = Outcome(batch, None)
        driver.views.handed_over()
        self._reporter.delivered(c.task, clock.now() - begun)

    def _was_interrupted(self, c: m.Deliver) -> bool:
        """Whether a batch can be decoded, so that what was raised meanwhile came from outside: a signal, say."""
        try:
            self._driver.shield.do(lambda: self._decode(c))
        except Exception:
            return False
        return True

    def _decode(self, c: m.Deliver) -> Any:
        if isinstance(c.batch, InlineBatch):
            self._driver.here = c.batch
            return c.batch.value
        stream, place, pieces, nbytes = cast("_Batch", c.batch)
        if c.lease is None:
            return codec.decode(stream, pieces, None)
        anchor = self._driver.views.anchor(c.lease, self._driver.arena.map(c.lease.slot, nbytes).view(), nbytes)
        memory = anchor.data
        if place is not None:
            stream = bytes(memory[place[0] : place[0] + place[1]])
        return codec.decode(stream, pieces, memory)

    def _give_up(self, c: m.GiveUp) -> Any:
        try:
            self._reporter.raise_given_up(c)
        finally:
            self._driver.close()

    def _end_epoch(self) -> Any:
        self._reporter.epoch_ended()
        if self._draw_error is not None:
            error, self._draw_error = self._draw_error, None
            raise error
        raise StopIteration


def _states(snapshot: object) -> States | None:
    return snapshot if isinstance(snapshot, States) else None
