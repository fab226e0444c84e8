"""What a process does with each message."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import pickle
from typing import TYPE_CHECKING, Any

import torch

from safeloader import torch_private
from safeloader.notes import in_one_line
from safeloader.runtime import by_value
from safeloader.runtime import protocol as p
from safeloader.runtime.channel import Blocking
from safeloader.runtime.child import lookahead, prepared, user_forks
from safeloader.runtime.child.active_worker import ActiveWorker
from safeloader.runtime.child.copied import Copied, PageMarks
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.child.main_script import Script
from safeloader.runtime.child.script_settings import make_settings
from safeloader.runtime.child.states import Base, States
from safeloader.runtime.child.unsendable import unsendable
from safeloader.runtime.child.worker import Ended, Loaded, Worker
from safeloader.runtime.memory.codec import Encoder
from safeloader.runtime.memory.collate import collating_into
from safeloader.runtime.memory.skeletons import Skeletons
from safeloader.runtime.memory.slot_writer import SlotWriter
from safeloader.runtime.payload import HostConfig, Parts, open_parts, open_script

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.channel import NonBlocking
    from safeloader.runtime.memory.arena import Arena

__all__ = ["WorkerHost"]


class WorkerHost(Copied):
    """Hosts workers, one of which is in at a time.

    Args:
        config: plain values for this loader.
        spec: descriptor of the file with the user's objects.
        inherited: descriptors that those objects share with the trainer.
        arena: this process's side of the arena.
        process: this process's number.
        link: the channel.
        active: which worker is active; other hosts in this process have the same.
    """

    def __init__(
        self,
        config: HostConfig,
        spec: int,
        inherited: list[int],
        arena: Arena,
        process: int,
        link: Blocking | NonBlocking,
        active: ActiveWorker | None = None,
    ) -> None:
        self._config = config
        self._spec = spec
        self._inherited = inherited
        self._link = link
        self._active = active or ActiveWorker()
        self.refused = False  # the dataset cannot be rebuilt here
        self._arena = arena
        self._page = Heartbeat(arena.page(process))
        self._marks = PageMarks(self._page)
        self.writer = self._writer = SlotWriter(arena)
        self._encoder = Encoder(self._writer, config.token, skeletons=Skeletons())
        self._generators = self._active.generators
        self._workers: dict[int, Worker] = {}
        self._recalls: dict[int, Callable[[], None]] = {}  # by slot: whose lease the dataset writes into already
        self._bases: dict[int, Base | None] = {}  # by worker: what the trainer knows of its generators' words
        self._tables: dict[int, list[type]] = {}  # each worker has its own classes of the main script
        self._closing: dict[int, Callable[[], None]] = {}  # by worker: closes what was opened for it
        self._handlers: dict[type, Callable[[Any], None]] = {
            p.Host: self._host,
            p.Drop: lambda asked: self._drop(asked.worker),
            p.Resume: self._resume,
            p.Rewind: self._rewind,
            p.Task: self._task,
            p.Probe: self._probe,
            p.More: lambda _: None,
        }
        self._keeper = self._make_keeper()
        user_forks.watch(self)

    def serve(self) -> None:
        """Until the trainer closes the channel, which is this host's alone."""
        assert isinstance(self._link, Blocking)
        with collating_into(self._writer), lookahead.showing(self._waiting):
            while True:
                if self._keeper is not None:
                    self._keeper.wait()
                message = self._link.receive()
                if message is None or self.left:
                    return
                self.handle(message)
                if self._keeper is not None:
                    self._keeper.look(message)

    def handle(self, message: Any) -> None:
        """Do what one message asks, in its worker's context, and answer it."""
        handler = self._handlers[type(message)]
        if type(message) in p.OF_WORKER:
            self._active.run(self._workers[message.worker], handler, message)
        else:
            handler(message)

    @property
    def left(self) -> bool:
        """True once the loader wants nothing of this process any more."""
        return self._page.left

    @property
    def awaited(self) -> bool:
        """True while the loader's consumer waits."""
        return self._page.awaited

    def leave(self) -> None:
        """Let go of all workers."""
        for worker in list(self._workers):
            self._drop(worker)

    # ------------------------------------------------------------ workers

    def _host(self, asked: p.Host) -> None:
        place = asked.place
        self._page.take_setup(place.worker)
        if place.redo is not None and place.as_new is None:
            worker = self._workers[place.worker]
            self._active.run(worker, self._redo, worker, place)
            return
        self._active.give(None)
        script, parts = prepared.take(self._spec) or self._opened()
        self._tables[place.worker] = classes = parts.classes
        script.know(classes)
        if failed := make_settings(script):
            self._link.send(p.Differs(failed))
        replay = [(self._read(indices, classes), skip) for indices, skip in place.replay]
        place = place._replace(replay=replay, redo=self._to_redo(place, classes))
        if place.mark is not None:
            position, said, states = place.mark
            place = place._replace(mark=(position, by_value.loads(said, classes), states and States(*states)))
        self._encoder.numbers.update({cls: number for number, cls in enumerate(parts.classes)})
        if self._config.accelerators:  # a worker seeds the CPU's generator only, being in the trainer at times
            torch.manual_seed(self._config.load.base_seed + place.worker)
        given = parts.dataset, parts.collate_fn, parts.worker_init_fn
        make = functools.partial(
            self._worker_class(), self._config.load, *given, place, self._generators, self._marks, parts.generators
        )
        self._workers[place.worker] = worker = self._active.set_up(make, given, script)
        self._bases.pop(worker.id, None)
        self._closing[worker.id] = parts.close
        if (found := worker.diverged) is not None:
            self._link.send(p.Diverged(worker.id, self._page.rest(), found.how, found.at, found.detail))
            return
        first = self._brief(worker, worker.first_states())
        self._link.send(
            p.Hosted(worker.id, first, self._page.rest(), worker.begin, worker.compared, tuple(worker.lost))
        )

    def _opened(self) -> tuple[Script, Parts]:
        """A copy of the user's objects."""
        script = Script(open_script(self._spec))
        script.be_main()
        try:
            return script, open_parts(self._spec, self._inherited)
        except Exception as error:
            self.refused = True
            self._page.refuse()
            self._link.send(p.Refused(self._refusal(error)))
            raise  # this process is of no use

    def _worker_class(self) -> Callable[..., Worker]:
        if self._config.worker is None:
            return Worker
        place, first = self._config.worker
        module, _, name = place.partition(":")
        return functools.partial(getattr(importlib.import_module(module), name), *first)

    def _drop(self, worker: int) -> None:
        gone = self._workers.pop(worker, None)
        if gone is self._active.holder:
            self._active.give(None)
        self._closing.pop(worker, _nothing)()

    def _resume(self, asked: p.Resume) -> None:
        self._page.take_setup(asked.worker)
        worker = self._workers[asked.worker]
        try:
            worker.resume(asked.shared_seed, asked.epoch, asked.told_epoch)
        except Exception as error:
            worker.failure = error
        said = self._said(worker, always=True)
        self._link.send(p.Resumed(worker.id, self._states(worker), self._page.rest(), said, ()))

    def _rewind(self, asked: p.Rewind) -> None:
        self._page.take_setup(asked.worker)
        worker = self._workers[asked.worker]
        worker.go_back(asked.states)
        self._link.send(p.Resumed(worker.id, self._states(worker), self._page.rest(), None, tuple(worker.lost)))

    # ------------------------------------------------------------ tasks

    def _task(self, asked: p.Task) -> None:
        number, task, indices, skip, slot = asked
        recall = self._recalls.pop(slot, None)
        if self._page.is_cancelled(task):
            if recall is not None:
                recall()
                self._writer.take_back(slot)
            self._link.send(p.Cancelled(task, self._page.now()))
            return
        taken_at = self._page.take_task(task)
        worker = self._workers[number]
        try:
            message = self._load(worker, task, indices, skip, slot, taken_at)
        finally:
            self._writer.close()
        changed = worker.looked(self._keeper is None or self._keeper.refused)
        if changed is not None:  # first: after the answer the worker may be moved
            self._link.send((p.Changed if changed else p.Unchanged)(number))
        self._link.send(message)

    def _load(self, worker: Worker, task: int, indices: Any, skip: tuple[int, ...], slot: int, taken_at: float) -> Any:
        try:
            self._writer.open(slot)
            loaded = worker.load(self._indices(indices), skip)
        except Ended:
            return p.Ended(task, self._states(worker), self._page.rest())
        except Exception as error:
            return self._raised(worker, task, error, unpicklable=False)
        try:
            return self._loaded(worker, task, loaded, taken_at)
        except Exception as error:
            told = unsendable(error, loaded.batch, indices, self._classes())
            return self._raised(worker, task, told, unpicklable=True)

    def _waiting(self, recall: Callable[[], None]) -> list[lookahead.WaitingTask]:
        """The next tasks of the worker that is in, as far as they have arrived and their leases are not reserved.

        What lies behind any other message, such as a new epoch, is not next.
        """
        assert isinstance(self._link, Blocking)
        if self._active.holder is None:  # it is being brought to its place: what it loads is thrown away
            return []
        worker = self._active.holder.id

        def follows(message: Any) -> bool:
            return type(message) is p.Task and message.worker == worker

        return [
            lookahead.WaitingTask(self._indices(task.indices), functools.partial(self._reserve, task.slot, recall))
            for task in itertools.takewhile(follows, self._link.arrived())
            if task.slot not in self._recalls
        ]

    def _reserve(self, slot: int, recall: Callable[[], None], sizes: list[int]) -> list[torch.Tensor]:
        tensors = self._writer.reserve(slot, sizes)
        self._recalls[slot] = recall
        return tensors

    def _loaded(self, worker: Worker, task: int, loaded: Loaded, taken_at: float) -> Any:
        if loaded.empty:
            return p.Empty(task, self._states(worker), taken_at, self._page.rest(), loaded.dropped, worker.digest)
        collated_at = self._page.progressed_at
        stream, pieces = self._encoder.encode(loaded.batch)
        place = None
        if len(stream) > p.STREAM_IN_MESSAGE:
            place, stream = (self._writer.write(stream), len(stream)), b""
        nbytes = self._writer.used if pieces or place else 0
        states = self._states(worker)
        said = self._said(worker)
        said_at = None if said is None else (self._writer.write(said), len(said))
        if said is not None:
            worker.noted()
        return p.Loaded(
            task, nbytes, stream, place, pieces, states, taken_at, self._page.rest(), loaded.dropped, said_at,
            collated_at, worker.digest,
        )  # fmt: skip

    def _said(self, worker: Worker, always: bool = False) -> bytes | None:
        """What the worker's dataset says of itself, if that is to be told now."""
        said = worker.said(always)
        if said is None:
            return None
        try:
            return by_value.dumps(said, self._classes())
        except Exception as error:
            return by_value.dumps({"error": f"it cannot leave the worker: {type(error).__name__}: {error}"})

    def _raised(self, worker: Worker, task: int, error: Exception, unpicklable: bool) -> Any:
        wrapped = self._exception(error, f"in DataLoader worker process {worker.id}")
        states = self._states(worker)
        rest, detail = self._page.rest(), in_one_line(error)
        return p.Raised(task, wrapped, worker.sample, unpicklable, states, rest, worker.digest, detail)

    def _exception(self, error: BaseException, where: str) -> bytes:
        """torch's wrapper, so that the same error comes out as from torch's workers; as text if its class cannot."""
        wrapper = torch_private.wrap_exception(error, where)
        try:
            return by_value.dumps(wrapper, self._classes())
        except Exception:
            name = wrapper.exc_type.__name__
            wrapper.exc_type = RuntimeError
            wrapper.exc_msg = f"(its class, {name}, cannot leave the worker)\n{wrapper.exc_msg}"
            return by_value.dumps(wrapper)

    def _refusal(self, error: Exception) -> bytes:
        """What cannot be opened again, where it is held, and what to try; else why the dataset cannot be rebuilt."""
        told = getattr(error, "what", None), getattr(error, "path", None), getattr(error, "hint", None)
        if all(isinstance(text, str) for text in told):
            return pickle.dumps(told)
        return self._exception(error, f"in worker process {os.getpid()}")

    def _classes(self) -> list[type]:
        inside = self._active.holder
        return self._tables.get(inside.id, []) if inside is not None else []

    def _indices(self, indices: Any) -> Any:
        return indices if type(indices) is list else self._read(indices, self._classes())

    @staticmethod
    def _read(indices: Any, classes: list[type]) -> Any:
        if isinstance(indices, p.Packed):
            return pickle.loads(indices.data)
        return by_value.loads(indices.data, classes) if isinstance(indices, p.Carried) else indices

    def _probe(self, asked: p.Probe) -> None:
        self._page.take_task(asked.task)
        worker = self._workers[asked.worker]
        wanted = self._indices(asked.indices)
        others = tuple(i for i in range(len(wanted)) if i not in asked.positions)
        try:
            worker.load(wanted, others)
        except Exception:  # an exception kills nobody
            pass
        self._link.send(p.Probed(asked.task, self._page.rest()))


def _nothing() -> None:
    """There is nothing to close."""
