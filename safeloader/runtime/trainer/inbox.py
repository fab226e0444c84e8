"""What processes say, and how they end, as events."""

from __future__ import annotations

import functools
import itertools
import time
from time import monotonic
from typing import TYPE_CHECKING, Any

from safeloader import clock
from safeloader.core import messages as m
from safeloader.runtime import protocol as p
from safeloader.runtime.child.states import Advanced
from safeloader.runtime.trainer.journal import ArrivedEvents
from safeloader.runtime.trainer.missing_paths import on_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.trainer.ports import Parts
    from safeloader.runtime.trainer.process_handle import ProcessHandle

__all__ = ["Inbox"]

_RARE = frozenset({p.Ready, p.Refused, p.Left, p.Shadowed})  # what they lead to is more than an event
_EXIT_DELAY = 1.0  # seconds between the end of a channel and that of its process, where there is no pidfd


class Inbox:
    """Listens to one driver's processes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reporter = parts.reporter
        self._handlers: dict[type, Callable[[ProcessHandle, Any], list[m.Event]]] = {
            p.Ready: self._ready,
            p.Hosted: self._hosted,
            p.Diverged: self._diverged,
            p.Resumed: self._resumed,
            p.Loaded: self._loaded,
            p.Empty: self._empty,
            p.Raised: self._raised,
            p.Ended: self._worker_ended,
            p.Probed: lambda q, it: [m.ProbeFinished(q.number, it.task, clock.at(it.finished_at))],
            p.Cancelled: lambda q, it: [m.TaskCancelled(q.number, it.task, clock.at(it.finished_at))],
            p.Refused: lambda q, it: [m.StartRefused(q.number, it.error)],
            p.Left: self._left,
            p.Shadowed: self._shadowed,
            p.Unshadowed: self._unshadowed,
            p.Changed: lambda q, it: [m.WorkerChanged(q.number, it.worker)],
            p.Unchanged: lambda q, it: [m.WorkerUnchanged(q.number, it.worker)],
            p.Differs: self._differs,
        }

    def listen(self, process: ProcessHandle) -> None:
        """A process was started."""
        processes = self._parts.processes
        processes[process.number] = process
        processes.listen(process.channel.fileno(), process, self.hear)
        if process.pidfd >= 0:
            processes.listen(process.pidfd, process, self.notice_exit)

    def close(self) -> None:
        """Nothing is heard any more: let go of who would hear it."""
        self._handlers.clear()

    # ------------------------------------------------------------ messages

    def hear(self, process: ProcessHandle) -> None:
        """Read a channel to its end."""
        self._receive(process)
        if process.channel.ended:
            self._parts.shield.do(lambda: self._ended(process))

    def _receive(self, process: ProcessHandle) -> None:
        inbox = self._parts.journal.inbox
        arrived = functools.partial(ArrivedEvents, process)
        process.channel.receive_into(lambda told: inbox.extend(list(itertools.starmap(arrived, told))))

    def _ended(self, process: ProcessHandle) -> None:
        self._parts.processes.forget(process.channel.fileno())
        self._exited(process)

    def events(self, arrived: ArrivedEvents) -> list[m.Event]:
        """What a message means."""
        process, number, message = arrived
        handler = self._handlers[type(message)]
        if type(message) in _RARE:
            found: list[m.Event] = self._parts.shield.run(
                ("message", process.number, number), lambda: handler(process, message)
            )
            return found
        return handler(process, message)

    def _ready(self, process: ProcessHandle, it: p.Ready) -> list[m.Event]:
        at = clock.at(it.at)
        process.settle()
        self._parts.launcher.learn(at - process.started_at)
        self._reporter.started(process)
        return [m.ProcessReady(process.number, at, process.fell_back)]

    def _left(self, process: ProcessHandle, _: p.Left) -> list[m.Event]:
        process.turned_out()
        return []

    def _shadowed(self, process: ProcessHandle, it: p.Shadowed) -> list[m.Event]:
        assert it.files is not None
        return [self._parts.shadows.taken(process.number, it.pid, it.private, *it.files.take())]

    def _unshadowed(self, process: ProcessHandle, it: p.Unshadowed) -> list[m.Event]:
        self._reporter.unshadowed(it.why)
        return []

    def _differs(self, process: ProcessHandle, it: p.Differs) -> list[m.Event]:
        self._reporter.differs(process, it.texts)
        return []

    def _hosted(self, process: ProcessHandle, it: p.Hosted) -> list[m.Event]:
        if it.lost:
            self._reporter.not_restored(it.worker, it.lost)
        states, at = self._states(process, it.states), clock.at(it.finished_at)
        return [m.WorkerReady(process.number, it.worker, at, states, it.begin, it.compared)]

    def _resumed(self, process: ProcessHandle, it: p.Resumed) -> list[m.Event]:
        if it.lost:
            self._reporter.not_restored(it.worker, it.lost)
        states, at = self._states(process, it.states), clock.at(it.finished_at)
        return [m.WorkerResumed(process.number, it.worker, at, states, it.said)]

    def _worker_ended(self, process: ProcessHandle, it: p.Ended) -> list[m.Event]:
        return [m.WorkerEnded(process.number, it.task, self._states(process, it.states), clock.at(it.finished_at))]

    def _states(self, process: ProcessHandle, told: p.WorkerStates | None) -> Any:
        """States with the words that they begin from, which come once."""
        if told is None:
            return None
        worker, states = told
        if not isinstance(states, Advanced):
            return states
        if states.base is None:
            return states._replace(base=process.bases[worker])
        process.bases[worker] = states.base
        return states

    @staticmethod
    def _diverged(process: ProcessHandle, it: p.Diverged) -> list[m.Event]:
        return [m.WorkerDiverged(process.number, it.worker, clock.at(it.finished_at), it.how, it.at, it.detail)]

    def _loaded(self, process: ProcessHandle, it: p.Loaded) -> list[m.Event]:
        task, nbytes, stream, place, pieces, told, taken_at, finished_at, dropped, said_at, collated_at, digest = it
        self._reporter.loaded(process, task, taken_at, collated_at, finished_at, nbytes)
        states, said = told and self._states(process, told), None
        if said_at is not None:
            record = self._parts.journal.supervisor.tasks.get(task)
            if record is None or record.lease is None:
                return []  # nobody waits for it any more
            start, length = said_at
            view = self._parts.arena.map(record.lease.slot, start + length).view()
            said = m.WorkerMarked(process.number, record.worker, bytes(view[start : start + length]))
        batch = (stream, place, pieces, nbytes)
        loaded = m.TaskLoaded(
            process.number, task, batch, nbytes, states, clock.at(taken_at), clock.at(finished_at),
            dropped and _with_host(process, dropped), digest,
        )  # fmt: skip
        return [loaded] if said is None else [loaded, said]

    def _empty(self, process: ProcessHandle, it: p.Empty) -> list[m.Event]:
        states, dropped = self._states(process, it.states), _with_host(process, it.dropped)
        times = clock.at(it.taken_at), clock.at(it.finished_at)
        return [m.TaskLoaded(process.number, it.task, None, 0, states, *times, dropped, it.digest)]

    def _raised(self, process: ProcessHandle, it: p.Raised) -> list[m.Event]:
        cause, detail = "unpicklable" if it.unpicklable else "raised", it.detail
        states, at = self._states(process, it.states), clock.at(it.finished_at)
        if process.host:
            detail = f"{detail} ({on_host(process.host, detail)})"
            self._reporter.errors.note_host(it.task, process.host)
        return [m.TaskRaised(process.number, it.task, it.error, cause, it.sample, states, at, it.digest, detail)]

    # ------------------------------------------------------------ ends

    def notice_exit(self, process: ProcessHandle) -> None:
        """A process ended, or closed its channel, which it does only when it ends."""
        self._parts.shield.do(lambda: self._exited(process))

    def _exited(self, process: ProcessHandle) -> None:
        if process.number not in self._parts.processes:
            return
        if process.pidfd < 0:
            self._await_exit(process)
        if not process.exited():
            return  # pidfd will tell
        self._receive(process)
        self._parts.processes.remove(process)
        progress = process.page.read()
        event = m.ProcessExited(
            process.number, process.how_it_ended().detail, progress.task, progress.setup, progress.sample,
            process.read_stacks() or None, process.memory_was_short(), self._parts.relieved(),
        )  # fmt: skip
        forfeited = process.forfeited()
        process.close()
        if forfeited:
            self._parts.journal.inbox.append(m.ProcessLostElsewhere(process.number))
        self._parts.journal.inbox.append(event)

    @staticmethod
    def _await_exit(process: ProcessHandle) -> None:
        """Without pidfd the channel's end is all there is: the exit follows at once, or is made to."""
        end = monotonic() + _EXIT_DELAY
        while not process.exited():
            if monotonic() > end:
                process.kill()
            if monotonic() > end + _EXIT_DELAY:
                return  # it cannot die; its work in flight will miss its deadline
            time.sleep(0.001)

    # ------------------------------------------------------------ stacks

    def await_stacks(self, process: ProcessHandle) -> None:
        """Ask for the Python stacks; they come through a pipe, which a crash writes to as well."""
        process.read_stacks()
        process.ask_for_stacks()
        self._parts.processes.listen(process.stacks, process, self._stacks)

    def _stacks(self, process: ProcessHandle) -> None:
        """Faulthandler has begun to write."""
        self._parts.shield.do(lambda: self._read_stacks(process))

    def _read_stacks(self, process: ProcessHandle) -> None:
        text = process.rest_of_stacks()
        self._parts.processes.forget(process.stacks)
        self._parts.journal.inbox.append(m.StacksCaptured(process.number, text))


def _with_host(process: ProcessHandle, dropped: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
    """Samples that were left out, with the reasons as they are to be told."""
    if not dropped or not process.host:
        return dropped
    return tuple((position, f"{why} ({on_host(process.host, why)})") for position, why in dropped)
