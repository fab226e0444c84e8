"""A program whose dataset shares memory and locks with its workers as fork shares them. Tells what came of it.

python -m tests.runtime.shared_as_by_fork torch
python -m tests.runtime.shared_as_by_fork safeloader             memory without a name is opened, if that is permitted
python -m tests.runtime.shared_as_by_fork safeloader unprivileged             as if it were not
python -m tests.runtime.shared_as_by_fork safeloader unprivileged elsewhere   and a forked process has it already
python -m tests.runtime.shared_as_by_fork safeloader unprivileged waiting     and a thread waits for a lock of it
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import torch

from tests.until import until

COUNT, WORKERS = 8, 2


class Shared:
    """Samples that count what they see, in memory of every kind."""

    def __init__(self, fork: Any) -> None:
        self.nameless = mmap.mmap(-1, COUNT)
        self.over_nameless = np.frombuffer(mmap.mmap(-1, 8 * COUNT), np.int64)
        self.array = fork.Array(ctypes.c_int64, COUNT)
        self.over_array = np.ctypeslib.as_array(self.array.get_obj())
        self.tensor = torch.from_numpy(self.over_array)  # as in a well-known recipe for a cache
        self.backwards = self.over_array[::-2]
        self.block = shared_memory.SharedMemory(create=True, size=8 * COUNT)
        self.over_block = np.ndarray((COUNT,), np.int64, buffer=self.block.buf)
        self.lock, self.event, self.value = fork.RLock(), fork.Event(), fork.Value("i", 0)
        self.queue, self.bounded = fork.Queue(), fork.BoundedSemaphore(2)
        self.plain = np.arange(COUNT)[2:]

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> int:
        with self.lock, self.bounded:
            for memory in (self.nameless, self.over_nameless, self.over_block):
                memory[index] = memory[index] + index + 1
            self.tensor[index] += index + 1
            self.plain[0] += 1
        with self.value.get_lock():
            self.value.value += 1
        self.queue.put(index)
        assert self.event.wait(60)
        return index


def passes(dataset: Shared, make: Any, context: str) -> list[list[int]]:
    loader = make(dataset, batch_size=None, num_workers=WORKERS, multiprocessing_context=context)
    with dataset.lock:
        batches = iter(loader)  # all wait for the lock
    threading.Timer(0.2, dataset.event.set).start()
    return [[int(n) for n in batches], [int(n) for n in loader]]


def main(how: str, *more: str) -> None:
    dataset = Shared(multiprocessing.get_context("fork"))
    if how == "torch":
        given = passes(dataset, torch.utils.data.DataLoader, "fork")
    else:
        import safeloader
        from safeloader.runtime import by_value

        if "unprivileged" in more:
            _refuse_maps()
        try:
            with _disturbing(dataset, more):
                by_value.pack(dataset).close()
        except safeloader.NotCarriableError as error:
            print(json.dumps(error.what))
            return
        given = passes(dataset, safeloader.DataLoader, "forkserver")
    told = {
        "given": given,
        "nameless": list(dataset.nameless[:]),
        "over_nameless": dataset.over_nameless.tolist(),
        "array": list(dataset.array),
        "tensor": dataset.tensor.tolist(),
        "backwards": dataset.backwards.tolist(),
        "over_block": dataset.over_block.tolist(),
        "value": dataset.value.value,
        "queued": sorted(dataset.queue.get(timeout=30) for _ in range(2 * COUNT)),
        "plain": dataset.plain.tolist(),
        "lock": dataset.lock.acquire(timeout=30),
    }
    dataset.over_block = None  # type: ignore[assignment]
    dataset.block.close()
    dataset.block.unlink()
    with open("/proc/self/maps") as maps:
        exchanged = "shared with workers" in maps.read()
    print(json.dumps([told, exchanged]))


def _refuse_maps() -> None:
    really = os.open

    def refused(path: Any, *more: Any, **named: Any) -> int:
        if str(path).startswith("/proc/self/map_files"):
            raise PermissionError(1, "not permitted")
        return really(path, *more, **named)

    os.open = refused  # type: ignore[assignment]


@contextlib.contextmanager
def _disturbing(dataset: Shared, how: tuple[str, ...]) -> Iterator[None]:
    """A forked process that has the memory, or a thread that waits for a lock."""
    if "elsewhere" in how:
        process = multiprocessing.get_context("fork").Process(target=dataset.event.wait)
        process.start()
        try:
            yield
        finally:
            process.kill()
            process.join()
    elif "waiting" in how:
        dataset.bounded.acquire()
        dataset.bounded.acquire()
        thread = threading.Thread(target=dataset.bounded.acquire)
        thread.start()
        inner = dataset.bounded._semlock  # type: ignore[attr-defined]
        until(lambda: ctypes.c_uint64.from_address(inner.handle).value >> 32 == 1, 20)
        try:
            yield
        finally:
            dataset.bounded.release()
            thread.join()
    else:
        yield


if __name__ == "__main__":
    main(*sys.argv[1:])
