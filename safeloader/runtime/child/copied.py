"""What a host does because its process may copy itself, and be made from a copy."""

from __future__ import annotations

import functools
import multiprocessing.process
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from safeloader.runtime import protocol as p
from safeloader.runtime.channel import Blocking
from safeloader.runtime.child import prepared, user_forks
from safeloader.runtime.child.birth import name_of
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.child.states import Advanced
from safeloader.runtime.child.worker import Marks, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.channel import NonBlocking
    from safeloader.runtime.child.active_worker import ActiveWorker
    from safeloader.runtime.child.states import Base, States
    from safeloader.runtime.child.worker_place import WorkerPlace
    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.memory.slot_writer import SlotWriter
    from safeloader.runtime.payload import HostConfig
    from safeloader.runtime.shadow.change_detection import Change
    from safeloader.runtime.shadow.taker import ShadowTaker

__all__ = ["Copied", "PageMarks"]


class PageMarks(Marks):
    def __init__(self, page: Heartbeat) -> None:
        self.turn_to(page)

    def turn_to(self, page: Heartbeat) -> None:
        self.sample = page.sample  # type: ignore[method-assign]
        self.replayed = page.replayed  # type: ignore[method-assign]
        self.collate = page.collate  # type: ignore[method-assign]


class Copied:
    """The base of a host."""

    _config: HostConfig
    _inherited: list[int]
    _link: Blocking | NonBlocking
    _active: ActiveWorker
    _arena: Arena
    _page: Heartbeat
    _marks: PageMarks
    _writer: SlotWriter
    _workers: dict[int, Worker]
    _recalls: dict[int, Callable[[], None]]
    _tables: dict[int, list[type]]
    _bases: dict[int, Base | None]

    def _make_keeper(self) -> ShadowTaker | None:
        """Who copies this process now and then, if that is wanted."""
        wanted = self._config.shadow
        if not wanted or self._config.shared:
            return None
        from safeloader.runtime.shadow.taker import ShadowTaker

        shared = [*self._inherited, *prepared.descriptors()]
        return ShadowTaker(self, wanted is True or self._config.load.iterable, shared)

    @property
    def channel(self) -> Blocking:
        assert isinstance(self._link, Blocking)
        return self._link

    @property
    def iterable(self) -> bool:
        return self._config.load.iterable

    def is_clean(self) -> bool:
        """True if no lease is written into, and no worker is about to come."""
        return not self._recalls and not any(type(message) is p.Host for message in self.channel.arrived())

    def watch(self, worker: int) -> Change:
        """Looks whether what a worker has of the user's changes."""
        hosted = self._workers[worker]
        return hosted.watch(within=functools.partial(self._active.run, hosted))

    def succeed(self, number: int, channel: int) -> None:
        """Be another process from now on: one that a shadow made."""
        self._link = Blocking(socket.socket(fileno=channel))
        self._bases.clear()  # of this process, the trainer knows none
        self._page = Heartbeat(self._arena.page(number))
        self._marks.turn_to(self._page)
        multiprocessing.process.current_process().name = name_of(number)
        self._link.send(p.Ready(monotonic()))

    def disown(self) -> None:
        """This is a fork that the user's code made: the page and the leases are another's."""
        user_forks.end_at(self._page)
        self._writer.close()

    def _redo(self, worker: Worker, place: WorkerPlace) -> None:
        """Bring a worker that came with this process to where it stands."""
        worker.redo(self._to_redo(place, self._tables[worker.id]), place.snapshot)
        if (found := worker.diverged) is not None:
            self._link.send(p.Diverged(worker.id, self._page.rest(), found.how, found.at, found.detail))
            return
        states = self._states(worker)
        self._link.send(p.Hosted(worker.id, states, self._page.rest(), None, worker.compared, ()))

    def _to_redo(self, place: WorkerPlace, classes: list[type]) -> list[tuple[Any, ...]]:
        return [(begins, self._read(what, classes), *more) for begins, what, *more in place.redo or ()]

    def _states(self, worker: Worker) -> p.WorkerStates | None:
        """The generators of a worker, if they moved."""
        return self._brief(worker, worker.moved())

    def _brief(self, worker: Worker, states: States | Advanced | None) -> p.WorkerStates | None:
        """Without the words that the trainer knows from an earlier message."""
        if isinstance(states, Advanced):
            known, self._bases[worker.id] = self._bases.get(worker.id), states.base
            if known is states.base:
                states = states._replace(base=None)
        return states and (worker.id, states)

    @staticmethod
    def _read(indices: Any, classes: list[type]) -> Any:
        raise NotImplementedError
