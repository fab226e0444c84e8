"""The one loop: tells the supervisor what happened, carries out what it commands, and sleeps in between.

It sleeps until the next deadline or the first message or death, whichever comes first. Everything runs in the thread
that asks for a batch; there is no other. In the steady state a batch costs one read, one write, and no mapping.
"""

from __future__ import annotations

import math
import os
import pickle
import select
import threading
import time
import weakref
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import numpy

from ..core import messages as m
from ..core.supervisor import Supervisor
from ..errors import ConcurrentUseError, LoaderClosedError
from . import carry, codec
from . import protocol as p
from .arena import Arena
from .generators import States
from .inline import InlineBatch, InlineHost, Interrupted, NotEncodable
from .process import Process
from .tell import Teller
from .worker import Ended, WorkerPlace

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.policy import CoreSettings
    from ..observe.recorder import Recorder
    from .spec import Spec

__all__ = ["Driver"]

_LONGEST_SLEEP = 3600.0
_Batch = tuple[bytes, "tuple[int, int] | None", "list[tuple[int, int]]", int]


class Driver:
    """Runs one loader's processes and delivers its batches.

    Args:
        spec: what processes are given; closed with the driver.
        settings: what policy wants.
        recorder: where faults are told.
        finish: turns a batch into what the consumer gets (pinning), or None.
    """

    def __init__(
        self,
        spec: Spec,
        settings: CoreSettings,
        recorder: Recorder,
        finish: Callable[[Any], Any] | None = None,
    ) -> None:
        self.supervisor = Supervisor(settings)
        self.processes: dict[int, Process] = {}
        self.pids: dict[int, int] = {}
        self._spec = spec
        self._finish = finish
        self._arena = Arena()
        self._inline = InlineHost(spec.config.load, spec)
        self._teller = Teller(self, recorder)
        self._poll = select.poll()
        self._sources: dict[int, tuple[Process, Callable[[Process], None]]] = {}
        self._events: deque[m.Event] = deque()
        self._commands: deque[m.Command] = deque()
        self._returned: deque[m.Lease] = deque()
        self._anchors: dict[int, weakref.ref[Any]] = {}
        self._outcome: Callable[[], Any] | None = None
        self._draw: Callable[[], Any] | None = None
        self._draw_error: BaseException | None = None
        self._shared_seed: int | None = None
        self._handling = False
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._closed = False
        codec.Decoded.register(spec.config.token, spec.classes)
        self._actions = self._make_actions()
        self._hearers = self._make_hearers()

    # ------------------------------------------------------------ for the iterator

    def begin_epoch(self, epoch: int, draw: Callable[[], Any], shared_seed: int | None) -> None:
        """Start (or start over). ``draw`` gives the next batch of indices or raises StopIteration."""
        with self._alone():
            self._draw, self._draw_error, self._shared_seed = draw, None, shared_seed
            try:
                self._look(0.0)
                self._tell(m.EpochBegan(epoch))
            finally:
                self._draw = None

    def next(self, draw: Callable[[], Any]) -> Any:
        """The next batch.

        Raises:
            StopIteration: the epoch is over.
            SafeLoaderError: no further batch can be had, or this one is bad.
            Exception: what loading this batch raised.
        """
        with self._alone():
            self._draw, self._outcome = draw, None
            try:
                self._tell(m.BatchRequested())
                outcome = self._await_outcome()
            finally:
                self._draw = self._outcome = None
        return outcome()

    def _await_outcome(self) -> Callable[[], Any]:
        while True:
            if self._outcome is not None:
                return self._outcome
            self._wait()

    def look(self) -> None:
        """Notice what happened meanwhile (deaths, say), without waiting."""
        with self._alone():
            self._look(0.0)

    def _alone(self) -> _Alone:
        if self._closed:
            raise LoaderClosedError(
                "this iterator is closed",
                hint="begin a new epoch with iter(loader), or make a new loader if the loader was closed",
            )
        return _Alone(self._lock)

    # ------------------------------------------------------------ the loop

    def _wait(self) -> None:
        deadline = self.supervisor.next_deadline()
        self._look(min(max(deadline - monotonic(), 0.0), _LONGEST_SLEEP))

    def _look(self, seconds: float) -> None:
        """Hear everything there is to hear, waiting at most ``seconds`` for the first thing."""
        for descriptor, _ in self._poll.poll(int(seconds * 1000) + (seconds > 0)):
            source = self._sources.get(descriptor)
            if source is not None:
                source[1](source[0])
        self._flush_backlogs()
        if self.supervisor.next_deadline() <= monotonic():
            self._tell(m.ClockAdvanced())

    def _tell(self, event: m.Event) -> None:
        """Tell an event, carry out the commands, and whatever follows from that, in order."""
        while self._returned:
            self._events.append(m.LeaseReturned(self._returned.popleft()))
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            self._run()
        finally:
            self._handling = False

    def _run(self) -> None:
        events, commands, actions = self._events, self._commands, self._actions
        while events or commands:
            while commands:
                command = commands.popleft()
                actions[type(command)](command)
            if events:
                commands.extend(self.supervisor.handle(events.popleft(), monotonic()))

    # ------------------------------------------------------------ hearing

    def _hear(self, process: Process) -> None:
        """Read a channel to the end."""
        for message in process.channel.receive():
            self._hearers[message[0]](process, *message[1:])
        if process.channel.ended:
            self._forget_source(process.channel.fileno())
            self._notice_exit(process)

    def _notice_exit(self, process: Process) -> None:
        """A process ended, or closed its channel, which it does only when it ends."""
        if process.number not in self.processes:
            return
        if process.pidfd < 0 and not process.exited():
            self._await_exit(process)
        if not process.exited():
            return  # its channel ended a moment before itself: pidfd will tell
        for message in process.channel.receive():
            self._hearers[message[0]](process, *message[1:])
        self._retire(process)
        progress = process.page.read()
        self._tell(
            m.ProcessExited(
                process.number, process.how_it_ended().detail, progress.task, progress.setup, progress.sample,
                process.read_stacks() or None, process.memory_was_short(),
            )
        )  # fmt: skip
        process.close()

    @staticmethod
    def _await_exit(process: Process) -> None:
        """Without pidfd: the channel is closed, the exit is a matter of microseconds, or needs a kill."""
        end = monotonic() + 1.0
        while not process.exited() and monotonic() < end:
            time.sleep(0.001)
        if not process.exited():
            process.kill()

    def _retire(self, process: Process) -> None:
        del self.processes[process.number]
        self._forget_source(process.channel.fileno())
        self._forget_source(process.pidfd)
        self._forget_source(process.stacks)

    def _forget_source(self, descriptor: int) -> None:
        if self._sources.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _make_hearers(self) -> dict[int, Callable[..., None]]:
        return {
            p.READY: self._heard_ready,
            p.HOSTED: lambda q, worker, at: self._tell(m.WorkerReady(q.number, worker, at)),
            p.RESUMED: lambda q, worker, states, at: self._tell(
                m.WorkerResumed(q.number, worker, at, states)
            ),
            p.LOADED: self._heard_loaded,
            p.EMPTY: self._heard_empty,
            p.RAISED: self._heard_raised,
            p.ENDED: lambda q, task, states, at: self._tell(m.WorkerEnded(q.number, task, states, at)),
            p.PROBED: lambda q, task, at: self._tell(m.ProbeFinished(q.number, task, at)),
            p.REFUSED: lambda q, error: self._tell(m.StartRefused(q.number, error)),
        }

    def _heard_ready(self, process: Process) -> None:
        self._teller.started(process)
        self._tell(m.ProcessReady(process.number))

    def _heard_loaded(
        self, process: Process, task: int, nbytes: int, stream: bytes, place: Any, pieces: Any, states_at: Any,
        taken_at: float, finished_at: float, dropped: Any,
    ) -> None:  # fmt: skip
        states = None
        if states_at is not None:
            record = self.supervisor.tasks.get(task)
            if record is None or record.lease is None:
                return
            states = States(*pickle.loads(self._memory(record.lease.slot, *states_at)))
        batch = (stream, place, pieces, nbytes)
        self._tell(m.TaskLoaded(process.number, task, batch, nbytes, states, taken_at, finished_at, dropped))

    def _heard_empty(
        self, process: Process, task: int, states: Any, taken_at: float, finished_at: float, dropped: Any
    ) -> None:
        self._tell(m.TaskLoaded(process.number, task, None, 0, states, taken_at, finished_at, dropped))

    def _heard_raised(
        self, process: Process, task: int, error: bytes, sample: int | None, unpicklable: bool, states: Any, at: float
    ) -> None:
        cause = "unpicklable" if unpicklable else "raised"
        self._tell(m.TaskRaised(process.number, task, error, cause, sample, states, at))

    def _memory(self, slot: int, start: int, length: int) -> memoryview:
        return self._arena.map(slot, start + length).view()[start : start + length]

    # ------------------------------------------------------------ carrying out

    def _make_actions(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.PlanTask: self._plan_task,
            m.StartProcess: self._start_process,
            m.HostWorker: self._host_worker,
            m.DropWorker: self._drop_worker,
            m.ResumeWorker: self._resume_worker,
            m.SendTask: self._send_task,
            m.SendProbe: lambda c: self._send(
                c.process, p.PROBE, c.worker, c.task, self._carried(c.indices), c.positions
            ),
            m.LoadInline: self._load_inline,
            m.InspectProcess: self._inspect,
            m.CaptureStacks: lambda c: self._with(c.process, self._capture_stacks),
            m.KillProcess: lambda c: self._with(c.process, Process.kill),
            m.StopProcess: lambda c: self._with(c.process, Process.ask_to_end),
            m.AbandonProcess: self._abandon,
            m.Deliver: self._deliver,
            m.DeliverError: self._deliver_error,
            m.DeliverBadSample: lambda c: self._end_with(lambda: self._teller.raise_bad_sample(c)),
            m.EndEpoch: lambda c: self._end_with(self._end_epoch),
            m.FreeSlot: lambda c: self._arena.free(c.slot),
            m.GiveUp: lambda c: self._end_with(lambda: self._teller.raise_given_up(c)),
            m.ReportFault: self._teller.fault,
            m.ReportRung: self._teller.rung,
            m.ReportSlow: self._teller.slow,
            m.ReportSkipped: self._teller.skipped,
        }

    def _with(self, number: int, act: Callable[[Process], None]) -> None:
        process = self.processes.get(number)
        if process is not None:
            act(process)

    def _send(self, number: int, *message: Any) -> None:
        process = self.processes.get(number)
        if process is not None and process.channel.send(message):
            self._poll_for(process, select.POLLIN | select.POLLOUT)

    def _flush_backlogs(self) -> None:
        for process in self.processes.values():
            if process.channel.waits and not process.channel.flush():
                self._poll_for(process, select.POLLIN)

    def _poll_for(self, process: Process, mask: int) -> None:
        if process.channel.fileno() in self._sources:
            self._poll.modify(process.channel.fileno(), mask)

    def _carried(self, indices: Any) -> Any:
        """Indices as they are if any interpreter can read them, else by value."""
        if type(indices) is list and (not indices or type(indices[0]) is int):
            return indices
        try:
            plain = b"__main__" not in pickle.dumps(indices, protocol=5)
        except Exception:
            plain = False
        return indices if plain else p.Carried(carry.dumps(indices, self._spec.classes, what={"indices": indices}))

    def _plan_task(self, command: m.PlanTask) -> None:
        if self._draw is None or self._draw_error is not None:
            self._events.append(m.PlanEnded())
            return
        try:
            self._events.append(m.TaskPlanned(self._draw()))
        except StopIteration:
            self._events.append(m.PlanEnded())
        except Exception as error:  # it is raised when the batches planned before it are delivered
            self._draw_error = error
            self._events.append(m.PlanEnded())

    def _start_process(self, command: m.StartProcess) -> None:
        try:
            process = Process(command.process, self._spec, self._arena)
        except OSError as error:
            self._events.append(m.ProcessExited(command.process, str(error), None, None, None, None, False))
            return
        self.processes[command.process] = process
        self.pids[command.process] = process.pid
        self._listen(process.channel.fileno(), process, self._hear)
        if process.pidfd >= 0:
            self._listen(process.pidfd, process, self._notice_exit)

    def _listen(self, descriptor: int, process: Process, hear: Callable[[Process], None]) -> None:
        self._sources[descriptor] = (process, hear)
        self._poll.register(descriptor, select.POLLIN)

    def _host_worker(self, c: m.HostWorker) -> None:
        place = WorkerPlace(
            c.worker, c.epoch, c.position, c.ended, _states(c.epoch_snapshot), _states(c.snapshot), self._shared_seed
        )
        if c.process == m.INLINE:
            self._inline.host(place)
            self._events.append(m.WorkerReady(m.INLINE, c.worker, monotonic()))
        else:
            self._send(c.process, p.HOST, place)

    def _drop_worker(self, c: m.DropWorker) -> None:
        if c.process == m.INLINE:
            self._inline.drop(c.worker)
        else:
            self._send(c.process, p.DROP, c.worker)

    def _resume_worker(self, c: m.ResumeWorker) -> None:
        if c.process == m.INLINE:
            self._inline.resume(c.worker, self._shared_seed)
            self._events.append(m.WorkerResumed(m.INLINE, c.worker, monotonic(), self._inline.states(c.worker)))
        else:
            self._send(c.process, p.RESUME, c.worker, self._shared_seed)

    def _send_task(self, c: m.SendTask) -> None:
        self._send(c.process, p.TASK, c.worker, c.task, self._carried(c.indices), c.skip, c.lease.slot)

    def _load_inline(self, c: m.LoadInline) -> None:
        taken_at = monotonic()
        event: m.Event
        try:
            loaded = self._inline.load(c.worker, c.indices, c.skip, c.timeout)
        except Ended:
            event = m.WorkerEnded(m.INLINE, c.task, self._inline.states(c.worker), monotonic())
        except Interrupted as interrupted:
            event = m.InlineInterrupted(c.task, self._inline.sample(c.worker), interrupted.stack)
        except NotEncodable as failure:
            states = self._inline.states(c.worker)
            event = m.TaskRaised(m.INLINE, c.task, failure.error, "unpicklable", None, states, monotonic())
        except Exception as error:
            states, sample = self._inline.states(c.worker), self._inline.sample(c.worker)
            event = m.TaskRaised(m.INLINE, c.task, error, "raised", sample, states, monotonic())
        else:
            batch = None if loaded.empty else InlineBatch(loaded.batch)
            states = self._inline.states(c.worker)
            event = m.TaskLoaded(m.INLINE, c.task, batch, 0, states, taken_at, monotonic(), loaded.dropped)
        self._events.append(event)

    def _inspect(self, c: m.InspectProcess) -> None:
        process = self.processes.get(c.process)
        if process is not None:
            seen = process.page.read()
            self._events.append(
                m.ProcessInspected(
                    c.process, seen.task, seen.setup, seen.sample, seen.taken_at, seen.progressed_at, process.state()
                )
            )

    def _capture_stacks(self, process: Process) -> None:
        process.read_stacks()
        process.ask_for_stacks()
        self._listen(process.stacks, process, self._hear_stacks)

    def _hear_stacks(self, process: Process) -> None:
        """faulthandler writes line by line, within microseconds: read until it pauses."""
        text, before = process.read_stacks(), -1
        while len(text) != before:
            before = len(text)
            time.sleep(0.002)
            text = process.read_stacks()
        self._forget_source(process.stacks)
        self._tell(m.StacksCaptured(process.number, text))

    def _abandon(self, c: m.AbandonProcess) -> None:
        process = self.processes.get(c.process)
        if process is not None:
            self._retire(process)
            process.close()

    # ------------------------------------------------------------ outcomes

    def _end_with(self, outcome: Callable[[], Any]) -> None:
        if self._outcome is None:
            self._outcome = outcome

    def _deliver(self, c: m.Deliver) -> None:
        self._teller.delivered(c.task)
        try:
            batch = self._decode(c)
            if self._finish is not None:
                batch = self._finish(batch)
        except Exception as error:  # say, a class that only the worker can import
            failure = error
            self._outcome = lambda: self._teller.raise_undecodable(c.task, failure)
        else:
            self._outcome = lambda: batch

    def _decode(self, c: m.Deliver) -> Any:
        if isinstance(c.batch, InlineBatch):
            return c.batch.value
        stream, place, pieces, nbytes = cast("_Batch", c.batch)
        if c.lease is None:
            return codec.decode(stream, pieces, None)
        mapping = self._arena.map(c.lease.slot, nbytes)
        anchor = numpy.frombuffer(mapping.view(), dtype=numpy.uint8, count=nbytes)
        memory = anchor.data
        if place is not None:
            stream = bytes(memory[place[0] : place[0] + place[1]])
        lease, returned, anchors = c.lease, self._returned, self._anchors

        def back(_: Any) -> None:
            returned.append(lease)
            anchors.pop(lease.serial, None)

        anchors[lease.serial] = weakref.ref(anchor, back)
        return codec.decode(stream, pieces, memory)

    def _deliver_error(self, c: m.DeliverError) -> None:
        self._end_with(lambda: self._teller.raise_error(c, self._spec.classes))

    def _end_epoch(self) -> Any:
        self._teller.epoch_ended()
        if self._draw_error is not None:
            error, self._draw_error = self._draw_error, None
            raise error
        raise StopIteration

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End all processes: asked first, killed after the stop timeout. Bounded, and safe to call at any time."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._owner:
            return  # a fork of the trainer: they are not its processes
        try:
            self._tell(m.CloseRequested())
            while self.processes and self.supervisor.next_deadline() < math.inf:
                self._wait()
        finally:
            for process in self.processes.values():
                process.kill()
                process.close()
            self.processes.clear()
            codec.Decoded.forget(self._spec.config.token)
            self._spec.close()
            self._arena.close()


class _Alone:
    """Holds a lock that nobody else may want."""

    __slots__ = ("_lock",)

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise ConcurrentUseError(
                "two threads asked the same iterator for a batch at the same time",
                hint="give each thread its own loader, or guard next() with a lock",
            )

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def _states(snapshot: object) -> States | None:
    return snapshot if isinstance(snapshot, States) else None
