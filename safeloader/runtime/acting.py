"""The supervisor's commands, carried out."""

from __future__ import annotations

import contextlib
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import numpy

from ..core import messages as m
from . import carry, codec, system
from . import protocol as p
from .generators import States
from .indices import own_copy, pack
from .inline import InlineBatch, InlineHost, Interrupted, Irreversible, NotEncodable
from .worker import Ended, WorkerPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .driver import Driver
    from .hearing import Hearing
    from .process import Process
    from .tell import Teller

__all__ = ["Acting"]

_Batch = tuple[bytes, "tuple[int, int] | None", "list[tuple[int, int]]", int]


class Acting:
    """Acts for one driver; decides nothing."""

    def __init__(
        self, driver: Driver, teller: Teller, hearing: Hearing, finish: Callable[[Any], Any] | None
    ) -> None:
        self._driver = driver
        self._teller = teller
        self._hearing = hearing
        self._finish = finish
        self._inline = InlineHost(driver.spec.config.load, driver.spec, teller.not_undone)
        self._anchors: dict[int, weakref.ref[Any]] = {}
        self._draw: Callable[[], Any] | None = None
        self._draw_error: Exception | None = None
        self._owed = 0
        self._shared_seed: int | None = None
        self._told_epoch: int | None = None

    def actions(self) -> dict[type, Callable[[Any], None]]:
        """What to do on each command."""
        teller = self._teller
        return {
            m.PlanTask: self._plan_task,
            m.StartProcess: self._start_process,
            m.HostWorker: self._host_worker,
            m.DropWorker: self._drop_worker,
            m.ResumeWorker: self._resume_worker,
            m.SendTask: self._send_task,
            m.PassOver: lambda c: self._with(c.process, lambda process: process.page.pass_over(c.before)),
            m.SendProbe: self._send_probe,
            m.LoadInline: self._load_inline,
            m.InspectProcess: self._inspect,
            m.CaptureStacks: lambda c: self._with(c.process, self._hearing.await_stacks),
            m.KillProcess: lambda c: self._with(c.process, lambda process: process.kill()),
            m.StopProcess: lambda c: self._with(c.process, lambda process: process.ask_to_end()),
            m.AbandonProcess: lambda c: self._with(c.process, self._abandon),
            m.Deliver: self._deliver,
            m.DeliverError: lambda c: self._end_with(lambda: teller.raise_error(c, self._driver.spec.classes)),
            m.DeliverBadSample: lambda c: self._end_with(lambda: teller.raise_bad_sample(c)),
            m.EndEpoch: lambda c: self._end_with(self._end_epoch),
            m.TellState: self._driver.told.append,
            m.FreeSlot: lambda c: self._driver.arena.free(c.slot),
            m.GiveUp: lambda c: self._end_with(lambda: self._give_up(c)),
            m.ReportFault: teller.fault,
            m.ReportRung: teller.rung,
            m.ReportSlow: teller.slow,
            m.ReportSlowStart: lambda c: self._with(c.process, lambda process: teller.slow_start(process, c.seconds)),
            m.ReportSkipped: teller.skipped,
            m.ReportRefused: teller.refused,
        }

    # ------------------------------------------------------------ planning

    def new_epoch(self, shared_seed: int | None, told_epoch: int | None) -> None:
        self._draw_error = None
        self._owed = 0
        self._shared_seed, self._told_epoch = shared_seed, told_epoch

    @contextlib.contextmanager
    def drawing(self, draw: Callable[[], Any]) -> Iterator[None]:
        """Within this context the sampler can be asked; beyond it, nothing here keeps the iterator alive.

        Draws that fall due in between, when another loader of the pool looks after this one, are made up for.
        """
        self._draw = draw
        try:
            while self._owed:
                self._owed -= 1
                self._plan_task(m.PlanTask())
            yield
        finally:
            self._draw = None

    def _plan_task(self, c: m.PlanTask) -> None:
        event: m.Event = m.PlanEnded()
        if self._draw is None:
            self._owed += 1
            return
        if self._draw_error is None:
            self._driver.drawing = True
            try:
                event = m.TaskPlanned(own_copy(self._draw()))
            except StopIteration:
                pass
            except Exception as error:  # raised when the batches planned before it have been delivered
                self._draw_error = error
            finally:
                self._driver.drawing = False
        self._driver.later(event)

    # ------------------------------------------------------------ processes

    def _with(self, number: int, act: Callable[[Process], None]) -> None:
        process = self._driver.processes.get(number)
        if process is not None:
            act(process)

    def _start_process(self, c: m.StartProcess) -> None:
        try:
            process = self._driver.start(c.process, c.standby)
        except OSError as error:
            self._driver.later(m.ProcessExited(c.process, system.explained(error), None, None, None, None, False))
        else:
            self._driver.add(process)
            if process.ready:
                self._teller.started(process)
                self._driver.later(m.ProcessReady(c.process))

    def _inspect(self, c: m.InspectProcess) -> None:
        self._with(c.process, lambda process: self._driver.later(self._inspected(process)))

    @staticmethod
    def _inspected(process: Process) -> m.Event:
        state = process.state()
        elsewhere, there = process.elsewhere(state)
        if process.forfeited():
            return m.ProcessForfeited(process.number)
        task, setup, sample, taken_at, progressed_at = process.page.read()
        progressed_at = max(progressed_at, there)
        return m.ProcessInspected(process.number, task, setup, sample, taken_at, progressed_at, state, elsewhere)

    def inspect_stopped(self) -> None:
        """Tell of processes that somebody stopped, before an epoch waits for them."""
        for process in list(self._driver.processes.values()):
            if process.state() == "T":
                self._driver.tell(self._inspected(process))

    def _abandon(self, process: Process) -> None:
        self._driver.remove(process)
        process.close()

    # ------------------------------------------------------------ workers and tasks

    def _host_worker(self, c: m.HostWorker) -> None:
        place = WorkerPlace(
            c.worker, c.epoch, c.position, c.ended, _states(c.epoch_snapshot), _states(c.snapshot), self._shared_seed,
            self._told_epoch, c.mark and (c.mark.position, c.mark.content, _states(c.mark.snapshot)), c.replay,
        )  # fmt: skip
        if c.process == m.INLINE:
            with self._refusing(c.worker):
                self._inline.host(place, c.lenient)
                self._driver.later(m.WorkerReady(m.INLINE, c.worker, monotonic(), self._inline.states(c.worker)))
        else:
            replay = [(self._carried(indices), skip) for indices, skip in c.replay]
            self._driver.send(c.process, p.HOST, place._replace(replay=replay))

    @contextlib.contextmanager
    def _refusing(self, worker: int) -> Iterator[None]:
        """Tell of what a worker in the trainer was about to do and could not have undone."""
        try:
            yield
        except Irreversible as refused:
            self._driver.later(m.InlineRefused(worker, refused.what))

    def _drop_worker(self, c: m.DropWorker) -> None:
        if c.process == m.INLINE:
            self._inline.drop(c.worker)
        else:
            self._driver.send(c.process, p.DROP, c.worker)

    def _resume_worker(self, c: m.ResumeWorker) -> None:
        if c.process == m.INLINE:
            with self._refusing(c.worker):
                said = self._inline.resume(c.worker, self._shared_seed, c.epoch, self._told_epoch)
                states = self._inline.states(c.worker)
                self._driver.later(m.WorkerResumed(m.INLINE, c.worker, monotonic(), states, said))
        else:
            self._driver.send(c.process, p.RESUME, c.worker, self._shared_seed, c.epoch, self._told_epoch)

    def _send_task(self, c: m.SendTask) -> None:
        self._driver.send(c.process, p.TASK, c.worker, c.task, self._carried(c.indices), c.skip, c.lease.slot)

    def _send_probe(self, c: m.SendProbe) -> None:
        self._driver.send(c.process, p.PROBE, c.worker, c.task, self._carried(c.indices), c.positions)

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
        return p.Carried(carry.dumps(indices, self._driver.spec.classes, what={"indices": indices}))

    def _load_inline(self, c: m.LoadInline) -> None:
        inline, taken_at = self._inline, monotonic()
        event: m.Event
        try:
            loaded = inline.load(c.worker, c.indices, c.skip, c.timeout)
        except Ended:
            event = m.WorkerEnded(m.INLINE, c.task, inline.states(c.worker), monotonic())
        except Irreversible as refused:
            event = m.InlineRefused(c.worker, refused.what)
        except Interrupted as interrupted:
            event = m.InlineInterrupted(c.task, inline.sample(c.worker), interrupted.stack)
        except NotEncodable as failure:
            states = inline.states(c.worker)
            event = m.TaskRaised(m.INLINE, c.task, failure.error, "unpicklable", None, states, monotonic())
        except Exception as error:
            states, sample = inline.states(c.worker), inline.sample(c.worker)
            event = m.TaskRaised(m.INLINE, c.task, error, "raised", sample, states, monotonic())
        else:
            batch = None if loaded.empty else InlineBatch(loaded.batch)
            states = inline.states(c.worker)
            event = m.TaskLoaded(m.INLINE, c.task, batch, 0, states, taken_at, monotonic(), loaded.dropped)
            self._teller.loaded_here(c.task, c.worker, event.finished_at - taken_at)
        self._driver.later(event)
        if isinstance(event, m.TaskLoaded):
            with self._refusing(c.worker):
                said = inline.said(c.worker)
                if said is not None:
                    self._driver.later(m.WorkerMarked(m.INLINE, c.worker, said))

    # ------------------------------------------------------------ outcomes

    def _end_with(self, outcome: Callable[[], Any]) -> None:
        if self._driver.outcome is None:
            self._driver.outcome = outcome

    def _deliver(self, c: m.Deliver) -> None:
        begun = monotonic()
        try:
            batch = self._decode(c)
            if self._finish is not None:
                batch = self._finish(batch)
        except Exception as error:  # say, a class that only the worker can import
            failure = error
            self._end_with(lambda: self._teller.raise_undecodable(c.task, failure))
        else:
            self._end_with(lambda: batch)
        self._teller.delivered(c.task, monotonic() - begun)

    def _decode(self, c: m.Deliver) -> Any:
        if isinstance(c.batch, InlineBatch):
            return c.batch.value
        stream, place, pieces, nbytes = cast("_Batch", c.batch)
        if c.lease is None:
            return codec.decode(stream, pieces, None)
        anchor = self._anchor(c.lease, nbytes)
        memory = anchor.data
        if place is not None:
            stream = bytes(memory[place[0] : place[0] + place[1]])
        return codec.decode(stream, pieces, memory)

    def _anchor(self, lease: m.Lease, nbytes: int) -> Any:
        """An array over the lease that all views refer to: when it dies, the lease comes back.

        That may be in any thread and inside anything, so all that happens then is an append, which is atomic.
        """
        memory = self._driver.arena.map(lease.slot, nbytes).view()
        anchor = numpy.frombuffer(memory, dtype=numpy.uint8, count=nbytes)
        returned, anchors = self._driver.returned, self._anchors

        def back(_: Any) -> None:
            returned.append(lease)
            anchors.pop(lease.serial, None)

        anchors[lease.serial] = weakref.ref(anchor, back)
        return anchor

    def _give_up(self, c: m.GiveUp) -> Any:
        try:
            self._teller.raise_given_up(c)
        finally:
            self._driver.close()

    def _end_epoch(self) -> Any:
        self._teller.epoch_ended()
        if self._draw_error is not None:
            error, self._draw_error = self._draw_error, None
            raise error
        raise StopIteration


def _states(snapshot: object) -> States | None:
    return snapshot if isinstance(snapshot, States) else None
