"""The thread that runs FFCV's pipeline. Whatever ends it is put into its queue; `batches` is the queue's other end."""

from __future__ import annotations

from queue import Empty, Full
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from ffcv.loader.epoch_iterator import IS_CUDA, EpochIterator
from numba import njit

from safeloader.ffcv import patches
from safeloader.ffcv.decoders import VERDICTS
from safeloader.ffcv.made import LOOK, Bad, Failed, Made
from safeloader.ffcv.order import mixed

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.ffcv.leases import Slots
    from safeloader.ffcv.recipe import EnginePlace, Recipe

__all__ = ["Producer"]

_JOIN = 5.0


@njit
def _seed(key):  # type: ignore[no-untyped-def]  # compiled: the generator of numba in this thread
    np.random.seed(key)


class Runs(Protocol):
    """What the thread runs: a `safeloader.ffcv.engine.Engine`."""

    recipe: Recipe
    loader: Any
    told: Callable[[], bytes | None] | None

    def allocate(self, anew: bool | None) -> tuple[Any, list[Slots], list[tuple[Any, int | None, int | None]]]:
        """Memory for an epoch: FFCV's buffers, those of them that are leased, and who wants keys or gives verdicts."""


class Producer(EpochIterator):  # type: ignore[misc,unused-ignore]
    """FFCV's thread, from one place to the end of an epoch.

    Args:
        engine: What it runs.
        samples: The samples that are left, in order.
        place: Where that begins.
        anew: Take all code anew; None: none of it.
    """

    def __init__(self, engine: Runs, samples: Any, place: EnginePlace, anew: bool | None = False) -> None:
        self._seed = engine.recipe.seed
        self._copy = engine.recipe.copy
        self._told = engine.told
        self._changes: bytes | None = None
        self.place = place
        self.began: float | None = None
        self.in_work: Any = None
        self.abandoned = self.closed = False
        self.memory_allocations: Any = None
        self._lent: dict[int, list[np.ndarray[Any, Any]]] = {}
        buffers, self._leased, self._guards = engine.allocate(anew)
        self._rings = _extents(buffers) if self._copy else []
        graph = engine.loader.graph
        graph.allocate_memory = lambda *_: buffers
        try:
            super().__init__(engine.loader, samples)  # starts the thread
        finally:
            del graph.allocate_memory

    def start(self) -> None:
        """Called by FFCV's constructor."""
        self.name = "safeloader-ffcv"
        super().start()

    def run(self) -> None:
        """Make batch after batch; whatever happens, something is put into the queue."""
        last: Any = None
        try:
            patches.threads_restored(self._run)
        except BaseException as error:
            failed = Failed(self.in_work)
            failed.__cause__ = error
            last = failed
        finally:
            self._put(last)

    def _run(self) -> None:
        from ffcv.pipeline.compiler import Compiler

        Compiler.set_num_threads(self.loader.num_workers)
        slots = self.loader.batches_ahead + 2
        events: list[Any] = [None] * slots
        for number, samples in enumerate(self.iter_ixes):
            if self.terminate_event.is_set():
                return
            self.in_work, self.began = samples, monotonic()
            slot = number % slots
            # No name here for what was made: it would keep the batch's memory while the next one is in work.
            if not self._put((slot, self._make(number, samples, slot, events[slot]))):
                return
            if IS_CUDA:  # as FFCV does: the consumer's work so far is on the slot that he has just left
                event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(self.current_stream)
                events[(slot + 1) % slots] = event

    def _make(self, number: int, samples: Any, slot: int, event: Any) -> Made:
        if IS_CUDA:  # FFCV has the device wait, but writes to the host's half of a slot that is still being copied
            self.cuda_streams[slot].synchronize()
        _seed(int(mixed(self._seed, self.place.epoch, np.array([self.place.batch + number]))[0]))
        lent = self._lent.pop(number, [])
        for which, slots in enumerate(self._leased):
            slots.open(slot, lent[which] if lent else None)
        lent.clear()
        memory: Any = self.memory_allocations["operation"]
        try:
            for salt, (node, _, at) in enumerate(self._guards):
                if at is not None:
                    keys = mixed(self._seed + salt, self.place.epoch, np.asarray(samples))
                    memory[node][at][slot][: len(samples), 0] = keys
            try:
                values = self.run_pipeline(number, samples, slot, event)
            except StopIteration as stop:
                raise RuntimeError(
                    "an operation raised StopIteration, which FFCV takes for the end of the epoch; look for a bare "
                    "next(...) in it"
                ) from stop
            return Made(values, samples, tuple(self._bad(memory, slot, len(samples))), self._news())
        finally:
            for slots in self._leased:
                slots.close(slot)
            self.began = None

    def _news(self) -> bytes | None:
        before, self._changes = self._changes, self._told() if self._told is not None else None
        return self._changes if self._changes != before else None

    def lend(self, number: int, reserve: Callable[[list[int]], list[torch.Tensor]]) -> None:
        """Have a batch, counted from where this thread began, made in other memory than the pool's, if it can be."""
        pools = [slots.pool for slots in self._leased]
        if pools:
            memories = reserve([pool.nbytes for pool in pools])
            self._lent[number] = [pool.shaped(m.numpy()) for pool, m in zip(pools, memories, strict=True)]

    def lent_too_late(self, number: int) -> None:
        """A batch has been made; memory that came after its beginning is not used."""
        self._lent.pop(number, None)

    def _bad(self, memory: Any, slot: int, count: int) -> list[Bad]:
        found = []
        for node, at, _ in self._guards:
            if at is None:
                continue
            verdicts = memory[node][at][slot][:count, 0]
            if verdicts.any():
                found += [Bad(int(place), VERDICTS[verdicts[place]]) for place in np.flatnonzero(verdicts)]
        return found

    def _put(self, item: Any) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=LOOK)
            except Full:
                continue
            return True
        return False

    def settled(self, slot: int, made: Made) -> Made:
        """A batch that stays valid: what still lies in FFCV's ring is copied."""
        if IS_CUDA:
            self.current_stream.wait_stream(self.cuda_streams[slot])
        return made._replace(values=tuple(map(self._settled, made.values)))

    def _settled(self, value: Any) -> Any:
        if getattr(value, "ndim", 1) == 0:  # FFCV's Squeeze() of a batch of one
            value = value.reshape(1)
        return self._own(value) if self._copy else value

    def _own(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type != "cpu":
                return value.clone()
            start = value.data_ptr()
        elif isinstance(value, np.ndarray):
            start = value.__array_interface__["data"][0]
        else:
            return value
        if any(low <= start < high for low, high in self._rings):
            return value.clone() if isinstance(value, torch.Tensor) else value.copy()
        return value

    def close(self) -> None:
        """End the thread, then let go of what it used. May be called any number of times."""
        self.terminate_event.set()
        if self.closed:
            return
        self.closed = True
        while self.is_alive():
            _drain(self.output_queue)
            self.join(timeout=LOOK)
            if self.abandoned or (self.began is not None and monotonic() - self.began > _JOIN):
                return  # stuck in an operation: it cannot be ended, and must keep its memory
        _drain(self.output_queue)
        self._lent.clear()
        self.memory_context.__exit__(None, None, None)
        for thread in getattr(getattr(self.memory_context, "executor", None), "threads", ()):
            thread.join(timeout=_JOIN)
        self.memory_allocations = self.storage_state = None

    def __del__(self) -> None:
        """FFCV's would close a second time."""


def _drain(queue: Any) -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        pass


def _extents(buffers: Any) -> list[tuple[int, int]]:
    """Where FFCV's own buffers lie."""
    found = []
    for kind in buffers.values():
        for whole in kind.values():
            for part in whole if isinstance(whole, tuple) else (whole,):
                for piece in part if isinstance(part, list) else (part,):
                    if isinstance(piece, torch.Tensor):
                        found.append((piece.data_ptr(), piece.data_ptr() + piece.nbytes))
                    elif isinstance(piece, np.ndarray):
                        start = piece.__array_interface__["data"][0]
                        found.append((start, start + piece.nbytes))
    return found
