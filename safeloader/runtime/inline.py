"""Workers hosted by the trainer itself, at the lowest rung: same code, same bytes, no process.

The trainer's own generators, worker info and thread count are put back after every batch. A watchdog thread interrupts
a batch past its deadline where Python can be interrupted: a signal whose handler raises wakes even a sleep or a lock.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import torch_private
from . import carry, codec, system
from .collate import collating_into
from .generators import Generators, States
from .private import PrivateMemory
from .unsendable import unsendable
from .worker import Loaded, LoadSpec, Marks, Worker, WorkerPlace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .spec import Spec

__all__ = ["InlineBatch", "InlineHost", "Interrupted", "NotEncodable"]


class InlineBatch(NamedTuple):
    """A batch that never left the trainer."""

    value: Any


class NotEncodable(Exception):
    """A batch was loaded, but a process could not have sent it. The error that tells is ``error``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Interrupted(BaseException):
    """A batch took too long; not an Exception, so that no dataset swallows it."""

    def __init__(self, stack: str = "") -> None:
        super().__init__(stack)
        self.stack = stack


class InlineHost:
    """Hosts workers in this process.

    Args:
        load: plain values for this loader.
        spec: where the workers' copies come from.
    """

    def __init__(self, load: LoadSpec, spec: Spec) -> None:
        self._load = load
        self._spec = spec
        self._token = spec.config.token
        self._generators: Generators | None = None
        self._places: dict[int, WorkerPlace] = {}
        self._workers: dict[int, Worker] = {}

    def host(self, place: WorkerPlace) -> None:
        """Take a worker in. It is set up when it is first needed, an iterator (it may draw random numbers) at once."""
        self._places[place.worker] = place
        if self._load.iterable:
            with self._as_worker(place.worker):
                pass

    def drop(self, worker: int) -> None:
        self._places.pop(worker, None)
        self._workers.pop(worker, None)

    def resume(self, worker: int, shared_seed: int | None, epoch: int, told_epoch: int | None) -> bytes | None:
        """Begin a new epoch. Returns what the dataset says of itself."""
        with self._as_worker(worker) as hosted:
            try:
                hosted.resume(shared_seed, epoch, told_epoch)
            except Exception as error:
                hosted.failure = error
        return self.said(worker, always=True)

    def said(self, worker: int, always: bool = False) -> bytes | None:
        """What a worker's dataset says of itself after its last batch, if that is to be told."""
        hosted = self._workers.get(worker)
        said = hosted.said(always) if hosted is not None else None
        if hosted is None or said is None:
            return None
        data = carry.dumps(said, self._spec.classes)
        hosted.noted()
        return data

    def load(self, worker: int, indices: Any, skip: tuple[int, ...], timeout: float) -> Loaded:
        """Load one batch now.

        Raises:
            Ended: the worker has nothing left.
            Interrupted: it took longer than ``timeout`` seconds and could be interrupted.
            NotEncodable: a process could not have sent this batch.
            Exception: whatever the dataset raised.
        """
        memory = PrivateMemory()
        with self._as_worker(worker) as hosted, _watched(timeout):
            loaded = hosted.load(indices, skip)
            if loaded.empty:
                return loaded
            try:
                stream, pieces = codec.Encoder(memory, self._token, self._spec.classes).encode(loaded.batch)
            except Exception as error:
                raise NotEncodable(unsendable(error, loaded.batch, indices, self._spec.classes)) from error
        return loaded._replace(batch=codec.decode(stream, pieces, memory))

    def states(self, worker: int) -> States | None:
        """The generators of a worker after its last batch."""
        hosted = self._workers.get(worker)
        return hosted.states if hosted is not None else None

    def sample(self, worker: int) -> int | None:
        hosted = self._workers.get(worker)
        return hosted.sample if hosted is not None else None

    @contextmanager
    def _as_worker(self, number: int) -> Iterator[Worker]:
        if self._generators is None:
            self._generators = Generators()
        generators = self._generators
        mine, info, threads = generators.capture(), torch_private.get_worker_info(), torch.get_num_threads()
        torch.set_num_threads(1)  # as in a process: the number of threads can change the last bits of a sum
        try:
            with collating_into(None):
                hosted = self._workers.get(number) or self._set_up(number, generators)
                hosted.enter()
                try:
                    yield hosted
                finally:
                    hosted.leave()
        finally:
            torch.set_num_threads(threads)
            torch_private.put_worker_info(info)
            generators.restore(mine)

    def _set_up(self, number: int, generators: Generators) -> Worker:
        parts, place = self._spec.parts(), self._places.pop(number)
        if place.mark is not None:
            position, said, states = place.mark
            place = place._replace(mark=(position, carry.loads(said, self._spec.classes), states))
        worker = Worker(
            self._load, parts.dataset, parts.collate_fn, parts.worker_init_fn, place, generators, Marks()
        )  # fmt: skip
        self._workers[number] = worker
        return worker


@contextmanager
def _watched(timeout: float) -> Iterator[None]:
    """Interrupt the block after ``timeout`` seconds; only in the main thread, where Python runs signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main = threading.get_ident()
    over = threading.Event()
    stack: list[str] = []

    def interrupt(signum: int, frame: Any) -> None:
        if not over.is_set():
            over.set()
            raise Interrupted(stack[0] if stack else "")

    def watch() -> None:
        if not over.wait(timeout):
            frame = sys._current_frames().get(main)
            stack.append("".join(traceback.format_stack(frame)) if frame is not None else "")
            signal.pthread_kill(main, system.INTERRUPT_SIGNAL)

    before = signal.signal(system.INTERRUPT_SIGNAL, interrupt)
    watcher = threading.Thread(target=watch, daemon=True, name="safeloader-watchdog")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(system.INTERRUPT_SIGNAL, before)
