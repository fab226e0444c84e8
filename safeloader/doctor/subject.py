"""One loader, looked at: can it be spawned, how large is it, how long does each part of a batch take.

The dataset is first sent, then used: what is opened at first use would no longer be sendable.
"""

from __future__ import annotations

import contextlib
import operator
import statistics
import threading
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.multiprocessing

from safeloader import torch_private
from safeloader.doctor.finding import Finding
from safeloader.doctor.images import ImagesSeen
from safeloader.doctor.machine import GIB, ms, units
from safeloader.doctor.narrow import Narrow, narrowed
from safeloader.doctor.stages import StageClock
from safeloader.errors import NotCarriableError
from safeloader.observe.format import duration, inline, many
from safeloader.observe.stall_place import place_of
from safeloader.runtime import by_value
from safeloader.runtime.memory import codec
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.memory.slot_writer import SlotWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Inside", "Timing", "asks_for_fork", "carried", "shm_needed", "timed"]

_MOST_BATCHES = 8
_EVERY = 4  # samples, of which one is profiled


class Timing(NamedTuple):
    """Where the time of a batch goes in one process; medians in seconds.

    Attributes:
        samples: samples in a batch.
        sample: loading one sample.
        slowest: loading the slowest sample seen.
        slowest_index: its index; None for an iterable dataset.
        collate: making a batch of samples.
        transfer: writing the batch into shared memory and making it again on the other side.
        to_device: copying it to the first accelerator; None without one.
        nbytes: bytes of a batch in shared memory.
    """

    samples: int
    sample: float
    slowest: float
    slowest_index: Any
    collate: float
    transfer: float
    to_device: float | None
    nbytes: int

    @property
    def batch(self) -> float:
        """Seconds to load one batch without any worker."""
        return self.samples * self.sample + self.collate


class Inside:
    """What was found within samples.

    Attributes:
        images: that they opened.
        clock: where their time went.
        narrow: a batch of them whose images are uint8, where they are float32; None where they are not.
    """

    def __init__(self) -> None:
        self.images = ImagesSeen()
        self.clock = StageClock(self.images.returned)
        self.narrow: Narrow | None = None


def carried(loader: Any) -> tuple[Finding, int | None]:
    """Whether the dataset and its functions can be sent to a process that was not forked, and their size in bytes."""
    parts = {"dataset": loader.dataset, "collate_fn": loader.collate_fn, "worker_init_fn": loader.worker_init_fn}
    begun = perf_counter()
    try:
        packed = by_value.pack(tuple(parts.values()), what=parts)
    except NotCarriableError as error:
        return Finding("spawn", "bad", f"cannot be sent to a worker: {inline(error.what)}", error.hint), None
    seconds, size = perf_counter() - begun, packed.size
    packed.close()
    text = f"dataset and functions can be sent: {units(size)}, serialised in {duration(seconds)}"
    if size > GIB or seconds > 10:
        text += "; safeloader does that once, torch's own loader once for each worker and each epoch"
        hint = "keep paths or a memory-mapped file (numpy.memmap, Arrow) in the dataset, not the data"
        return Finding("spawn", "warn", text, hint), size
    return Finding("spawn", "ok", text), size


def asks_for_fork(loader: Any) -> Finding:
    """Whether the loader itself asks for fork."""
    context = loader.multiprocessing_context
    method = context if isinstance(context, str) else getattr(context, "get_start_method", lambda: None)()
    if method == "fork":
        hint = 'set multiprocessing_context="spawn": safeloader refuses fork, and spawns'
        return Finding("fork", "bad", "the loader asks for fork: its workers inherit held locks and contexts", hint)
    return Finding("fork", "ok", f"the loader asks for {method or 'no start method: safeloader spawns'}")


def timed(loader: Any, limit: float, inside: Inside | None = None) -> tuple[Finding, Timing | None]:
    """Load a few batches in this process, in a thread, since a sample may never come.

    Args:
        loader: whose dataset and functions are used.
        limit: seconds in all; what has been measured by then counts.
        inside: where it is kept what happens within samples.
    """
    clerk = _Clerk(loader, monotonic() + limit, inside or Inside())
    thread = threading.Thread(target=clerk.work, daemon=True, name="safeloader-doctor")
    thread.start()
    thread.join(limit + 1)
    if clerk.error is not None:
        text = f"{clerk.doing} raised {type(clerk.error).__name__}: {inline(clerk.error)}"
        return Finding("batches", "bad", text, "load that sample alone, in a fresh Python"), None
    if not clerk.collates:
        place = place_of(thread.ident or 0) if thread.is_alive() else None
        where = f", and stands at {place.line}" if place else ""
        text = f"{clerk.doing} has not finished within {duration(limit)}{where}"
        return Finding("batches", "bad", text, "load that sample alone; or allow more time with --seconds"), None
    timing = clerk.timing()
    text = (
        f"{many(timing.samples, 'sample')} a batch: {ms(timing.sample)} a sample (slowest {ms(timing.slowest)}"
        + ("" if timing.slowest_index is None else f": index {inline(timing.slowest_index, 40)}")
        + f"), collate {ms(timing.collate)}, transfer {ms(timing.transfer)} for {units(timing.nbytes)}"
        + ("" if timing.to_device is None else f", to the accelerator {ms(timing.to_device)}")
    )
    if timing.slowest > 1.0 and timing.slowest > 20 * timing.sample:
        return Finding("batches", "warn", text, "look at the sample named: slow ones hold up whole batches"), timing
    return Finding("batches", "ok", text), timing


def shm_needed(loader: Any, timing: Timing, free: int) -> Finding:
    """Whether torch's own loader would find room in ``/dev/shm`` for what it prefetches."""
    ahead = max(loader.num_workers, 1) * (loader.prefetch_factor or 2)
    needed = ahead * timing.nbytes
    text = f"torch's own loader would keep about {units(needed)} there ({many(ahead, 'batch')}), {units(free)} are free"
    if needed > free:
        hint = "use safeloader, which needs none; or give torch's own loader more: docker run --shm-size"
        return Finding("/dev/shm for it", "warn", text, hint)
    return Finding("/dev/shm for it", "ok", text)


class _Clerk:
    """Loads batches and keeps the times, in a thread."""

    def __init__(self, loader: Any, end: float, inside: Inside) -> None:
        self._loader = loader
        self._end = end
        self._inside = inside
        self._count = 0
        self.error: Exception | None = None
        self.doing = "the sampler"
        self.samples: list[tuple[float, Any]] = []
        self.sizes: list[int] = []
        self.collates: list[float] = []
        self.transfers: list[float] = []
        self.devices: list[float] = []
        self.nbytes = 0

    def work(self) -> None:
        try:
            for batch in self._batches():
                self.doing = "collating a batch"
                collated = self._time(self.collates, lambda: self._loader.collate_fn(batch))  # noqa: B023
                self.doing = "sending a batch"
                self.nbytes = self._transfer(collated)
                if len(self.collates) == 2:
                    self._try_narrow(batch)
                if monotonic() > self._end or len(self.collates) >= _MOST_BATCHES:
                    return
        except Exception as error:
            self.error = error

    def _batches(self) -> Iterator[Any]:
        dataset, sampler = self._loader.dataset, torch_private.index_sampler(self._loader)
        source = iter(dataset) if torch_private.is_iterable(self._loader) else None
        for drawn in sampler:
            single = self._loader.batch_sampler is None
            indices = [drawn] if single else list(drawn)
            batch = []
            for index in indices:
                self.doing = "the next sample" if source is not None else f"sample {inline(index, 60)}"
                try:
                    if source is None:
                        batch.append(self._sample(operator.getitem, (dataset, index), index))
                    else:
                        batch.append(self._sample(next, (source,), None))
                except StopIteration:
                    return
            self.sizes.append(len(batch))
            yield batch[0] if single else batch

    def _sample(self, load: Callable[..., Any], arguments: tuple[Any, ...], index: Any) -> Any:
        """One sample; some are profiled, and the others timed. The first, which imports, is not profiled."""
        self._count += 1
        if self._count % _EVERY == 0:
            self._inside.images.attend()
            with self._inside.clock:
                return load(*arguments)
        begun = perf_counter()
        sample = load(*arguments)
        self.samples.append((perf_counter() - begun, index))
        return sample

    def _try_narrow(self, batch: Any) -> None:
        """What collating and sending takes where images are uint8."""
        with contextlib.suppress(Exception):  # the collate function may not like it
            narrow = narrowed(batch, decoded=self._inside.images.size is not None)
            if narrow is None:
                return
            times: list[float] = []
            for _ in range(3):
                collated = self._time(times, lambda: self._loader.collate_fn(narrow))
            seconds, sent = statistics.median(times), len(self.transfers)
            nbytes = [self._transfer(collated) for _ in range(3)]
            self._inside.narrow = Narrow(seconds + statistics.median(self.transfers[sent:]), nbytes[-1])
            del self.transfers[sent:]

    def _transfer(self, batch: Any) -> int:
        arena = Arena()
        try:
            writer = SlotWriter(arena)
            writer.open(0)
            encoder = codec.Encoder(writer, "")
            begun = perf_counter()
            stream, pieces = encoder.encode(batch)
            nbytes = max(writer.used, len(stream))
            memory = arena.map(0, nbytes).view() if pieces else None
            codec.decode(stream, pieces, memory)
            self.transfers.append(perf_counter() - begun)
            writer.close()
        finally:
            arena.close()
        device = _accelerator()
        if device is not None:
            self._time(self.devices, lambda: _to_device(batch, device))
        return nbytes

    @staticmethod
    def _time(times: list[float], act: Any) -> Any:
        begun = perf_counter()
        result = act()
        times.append(perf_counter() - begun)
        return result

    def timing(self) -> Timing:
        slowest, index = max(self.samples, key=lambda pair: pair[0])
        return Timing(
            round(statistics.median(self.sizes)), statistics.median(time for time, _ in self.samples), slowest, index,
            statistics.median(self.collates), statistics.median(self.transfers),
            statistics.median(self.devices) if self.devices else None, self.nbytes,
        )  # fmt: skip


def _accelerator() -> str | None:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def _to_device(batch: Any, device: str) -> None:
    tensors = [batch] if isinstance(batch, torch.Tensor) else batch.values() if isinstance(batch, dict) else batch
    for tensor in tensors if not isinstance(tensors, (str, bytes)) else ():
        if isinstance(tensor, torch.Tensor):
            tensor.to(device)
    if device == "cuda":
        torch.cuda.synchronize()
    else:
        torch.mps.synchronize()
