"""What processes say, and how they end, as events."""

from __future__ import annotations

import pickle
import time
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..core import messages as m
from . import protocol as p
from .generators import States

if TYPE_CHECKING:
    from collections.abc import Callable

    from .driver import Driver
    from .process import Process
    from .tell import Teller

__all__ = ["Hearing"]

_EXIT_DELAY = 1.0  # seconds between the end of a channel and that of its process, where there is no pidfd


class Hearing:
    """Listens to one driver's processes."""

    def __init__(self, driver: Driver, teller: Teller) -> None:
        self._driver = driver
        self._teller = teller
        self._hearers: dict[int, Callable[..., None]] = {
            p.READY: self._ready,
            p.HOSTED: lambda q, worker, states, at: driver.tell(m.WorkerReady(q.number, worker, at, states)),
            p.RESUMED: lambda q, *said: driver.tell(m.WorkerResumed(q.number, said[0], said[2], said[1], said[3])),
            p.LOADED: self._loaded,
            p.EMPTY: self._empty,
            p.RAISED: self._raised,
            p.ENDED: lambda q, task, states, at: driver.tell(m.WorkerEnded(q.number, task, states, at)),
            p.PROBED: lambda q, task, at: driver.tell(m.ProbeFinished(q.number, task, at)),
            p.PASSED: lambda q, task, at: driver.tell(m.TaskPassed(q.number, task, at)),
            p.REFUSED: lambda q, error: driver.tell(m.StartRefused(q.number, error)),
            p.LEFT: lambda q: q.turned_out(),
            p.DIFFERS: teller.differs,
        }

    # ------------------------------------------------------------ messages

    def hear(self, process: Process) -> None:
        """Read a channel to its end."""
        self._messages(process)
        if process.channel.ended:
            self._driver.forget(process.channel.fileno())
            self.notice_exit(process)

    def _messages(self, process: Process) -> None:
        for message in process.channel.receive():
            self._hearers[message[0]](process, *message[1:])

    def _ready(self, process: Process, at: float) -> None:
        process.settle()
        self._driver.way.learn(at - process.started_at)
        self._teller.started(process)
        self._driver.tell(m.ProcessReady(process.number, at))

    def _loaded(
        self, process: Process, task: int, nbytes: int, stream: bytes, place: Any, pieces: Any, states_at: Any,
        taken_at: float, finished_at: float, dropped: Any, said_at: Any, collated_at: float,
    ) -> None:  # fmt: skip
        self._teller.loaded(process, task, taken_at, collated_at, finished_at, nbytes)
        states = said = None
        if said_at is not None:
            record = self._driver.supervisor.tasks.get(task)
            if record is None or record.lease is None:
                return  # nobody waits for it any more
            start, length = said_at
            view = self._driver.arena.map(record.lease.slot, start + length).view()
            said = m.WorkerMarked(process.number, record.worker, bytes(view[start : start + length]))
        if states_at is not None:
            record = self._driver.supervisor.tasks.get(task)
            if record is None or record.lease is None:
                return  # nobody waits for it any more
            start, length = states_at
            memory = self._driver.arena.map(record.lease.slot, start + length).view()
            states = States(*pickle.loads(memory[start : start + length]))
        batch = (stream, place, pieces, nbytes)
        self._driver.tell(m.TaskLoaded(process.number, task, batch, nbytes, states, taken_at, finished_at, dropped))
        if said is not None:
            self._driver.tell(said)

    def _empty(
        self, process: Process, task: int, states: Any, taken_at: float, finished_at: float, dropped: Any
    ) -> None:
        self._driver.tell(m.TaskLoaded(process.number, task, None, 0, states, taken_at, finished_at, dropped))

    def _raised(
        self, process: Process, task: int, error: bytes, sample: int | None, unpicklable: bool, states: Any, at: float
    ) -> None:
        cause = "unpicklable" if unpicklable else "raised"
        self._driver.tell(m.TaskRaised(process.number, task, error, cause, sample, states, at))

    # ------------------------------------------------------------ ends

    def notice_exit(self, process: Process) -> None:
        """A process ended, or closed its channel, which it does only when it ends."""
        if process.number not in self._driver.processes:
            return
        if process.pidfd < 0:
            self._await_exit(process)
        if not process.exited():
            return  # pidfd will tell
        self._messages(process)
        self._driver.remove(process)
        progress = process.page.read()
        event = m.ProcessExited(
            process.number, process.how_it_ended().detail, progress.task, progress.setup, progress.sample,
            process.read_stacks() or None, process.memory_was_short(), self._driver.relieved,
        )  # fmt: skip
        forfeited = process.forfeited()
        process.close()
        if forfeited:
            self._driver.tell(m.ProcessForfeited(process.number))
        self._driver.tell(event)

    @staticmethod
    def _await_exit(process: Process) -> None:
        """Without pidfd the channel's end is all there is: the exit follows at once, or is made to."""
        end = monotonic() + _EXIT_DELAY
        while not process.exited():
            if monotonic() > end:
                process.kill()
            if monotonic() > end + _EXIT_DELAY:
                return  # it cannot die; its work in flight will miss its deadline
            time.sleep(0.001)

    # ------------------------------------------------------------ stacks

    def await_stacks(self, process: Process) -> None:
        """Ask for the Python stacks; they come through a pipe, which a crash writes to as well."""
        process.read_stacks()
        process.ask_for_stacks()
        self._driver.listen(process.stacks, process, self._stacks)

    def _stacks(self, process: Process) -> None:
        """Read until faulthandler pauses: it writes piece by piece, within microseconds."""
        text, before = process.read_stacks(), ""
        while text != before:
            time.sleep(0.002)
            text, before = process.read_stacks(), text
        self._driver.forget(process.stacks)
        self._driver.tell(m.StacksCaptured(process.number, text))
