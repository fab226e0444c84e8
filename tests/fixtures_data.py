"""Datasets and functions that a fresh interpreter can import, and orders for them.

A test leaves an *order* in a folder: "in sample 24, kill yourself". The worker that gets there carries it out: once
(whoever renames the order's file first), or every time. No order, no fault: the same dataset is torch's reference.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info


class OddError(Exception):
    """An exception whose constructor cannot take its own ``args``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class BareClass:
    """A batch type of plain attributes."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


# ---------------------------------------------------------------- deeds


def _deadlock_in_c() -> None:
    """Lock a pthread mutex twice, with the GIL held: no signal ends that, and it costs no CPU."""
    libc = ctypes.__dict__["PyDLL"](None)  # not named: code that names a library has shadows
    mutex = ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def _lock_twice() -> None:
    lock = threading.Lock()
    with lock, lock:
        pass


def _spin() -> None:
    while True:
        pass


def _raise(error: BaseException) -> Callable[[], None]:
    def deed() -> None:
        raise error

    return deed


def _raise_local() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("from inside a function")


def _import_fails() -> None:
    import a_module_that_is_nowhere  # type: ignore[import-not-found]  # noqa: F401


DEEDS: dict[str, Callable[[], Any]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGABRT": os.abort,
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit 0": lambda: os._exit(0),
    "exit 7": lambda: os._exit(7),
    "sys.exit": lambda: sys.exit(3),
    "interrupt": _raise(KeyboardInterrupt()),
    "sleep": lambda: time.sleep(10_000),
    "lock": _lock_twice,
    "lock in C": _deadlock_in_c,
    "spin": _spin,
    "thread": lambda: threading.Thread(target=time.sleep, args=(10_000,)).start(),
    "OSError": _raise(OSError("the file server does not answer")),
    "ValueError": _raise(ValueError("a bad picture")),
    "OddError": lambda: _raise(OddError(7, "odd"))(),
    "local error": _raise_local,
    "StopIteration": lambda: next(iter(())),
    "MemoryError": lambda: np.zeros(1 << 57),
    "import": _import_fails,
}
DEADLY = {"SIGKILL", "SIGABRT", "SIGSEGV", "SIGSTOP", "exit 0", "exit 7", "lock in C"}


class Orders:
    """A folder of orders. A place is ``"sample"``, ``"collate"``, ...; a key is an index or another name.

    Args:
        folder: where the files lie; "" for nobody ever orders anything.
    """

    def __init__(self, folder: str | Path = "") -> None:
        self.folder = str(folder)
        self.trainer = os.getpid()

    def give(self, place: str, key: object, deed: str, *, always: bool = False) -> None:
        """Order a deed of `DEEDS`, or ``"sleep 0.5"``, or ``"wait NAME"``: write a pid to the FIFO ``NAME.here``,
        then wait for the FIFO ``NAME.go``; or ``"later NAME"``: do that in a thread, then hang with the GIL held."""
        name = deed.partition(" ")[2] if deed.startswith(("wait ", "later ")) else ""
        if name:
            os.mkfifo(f"{self.folder}/{name}.here")
            os.mkfifo(f"{self.folder}/{name}.go")
        path = Path(self.folder, f"{place}-{key}" + (".always" if always else ""))
        path.with_suffix(".new").write_text(deed)
        path.with_suffix(".new").rename(path)

    def withdraw(self) -> None:
        """Forget all orders."""
        for path in Path(self.folder).iterdir():
            path.unlink()

    def await_arrival(self, name: str) -> int:
        """Wait until a process carries out ``wait NAME``; returns its pid."""
        with open(f"{self.folder}/{name}.here", "rb") as fifo:
            return int(fifo.read())

    def release(self, name: str) -> None:
        """Let the process that waits go on."""
        with open(f"{self.folder}/{name}.go", "wb"):
            pass

    def carried_out(self, place: str, key: object) -> bool:
        """Whether a single order was taken."""
        return os.path.exists(f"{self.folder}/{place}-{key}.done")

    def obey(self, place: str, key: object) -> None:
        """Do what is ordered here."""
        if self.folder:
            path = f"{self.folder}/{place}-{key}"
            try:
                os.rename(path, path + ".done")
                path += ".done"
            except FileNotFoundError:
                path += ".always"
            try:
                with open(path) as file:
                    self._do(file.read())
            except FileNotFoundError:
                pass

    def _do(self, deed: str) -> None:
        if os.getpid() == self.trainer and deed in DEADLY:
            raise AssertionError(f"the trainer itself was made to load what does: {deed}")
        if deed.startswith("wait "):
            self._wait(deed[5:])
        elif deed.startswith("later "):
            threading.Thread(target=lambda: (self._wait(deed[6:]), _deadlock_in_c()), daemon=True).start()
        elif deed.startswith("sleep "):
            time.sleep(float(deed[6:]))
        else:
            DEEDS[deed]()

    def _wait(self, name: str) -> None:
        with open(f"{self.folder}/{name}.here", "w") as fifo:
            fifo.write(str(os.getpid()))
        with open(f"{self.folder}/{name}.go", "rb") as fifo:
            fifo.read()


# ---------------------------------------------------------------- datasets


class Draws(Dataset[torch.Tensor]):
    """Each sample is its index and a draw of each of the three generators; uneven, so that states drift apart."""

    def __init__(self, count: int, orders: Orders | None = None) -> None:
        self.count = count
        self.orders = orders or Orders()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.orders.obey("sample", index)
        draws = [torch.randint(0, 1 << 20, ()).item(), random.randrange(1 << 20), int(np.random.randint(1 << 20))]
        if index % 3 == 0:
            draws[0] += int(1000 * torch.randn(3).sum())
        if index % 5 == 0:
            draws[1] += int(1000 * random.gauss(0, 1))
        if index % 7 == 0:
            draws[2] += int(1000 * np.random.standard_normal())
        return torch.tensor([index, *draws])


class DrawsAtOnce(Draws):
    """The same samples, fetched a batch at a time: nobody sees which sample is in work."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class UnpickleTrap(Draws):
    """The same samples; rebuilding the dataset in a process is where the order is carried out."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() != self.orders.trainer:
            self.orders.obey("unpickle", "dataset")


class Stream(IterableDataset[torch.Tensor]):
    """Samples of uneven shards, shuffled through a buffer by Python's generator."""

    def __init__(self, count: int, orders: Orders | None = None, buffer: int = 5) -> None:
        self.count = count
        self.buffer = buffer
        self.orders = orders or Orders()

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        self.orders.obey("iter", worker)
        for number, index in enumerate(self._shuffled(self._shard(worker, workers))):
            self.orders.obey("stream", f"{worker}-{number}")
            draws = [torch.randint(0, 1 << 20, ()).item(), int(np.random.randint(1 << 20))]
            yield torch.tensor([index, *draws])
        self.orders.obey("end", worker)

    def _shard(self, worker: int, workers: int) -> Iterator[int]:
        """Worker 0 gets twice what another gets."""
        for index in range(self.count):
            if index % (workers + 1) in ((0, workers) if worker == 0 else (worker,)):
                yield index

    def _shuffled(self, indices: Iterator[int]) -> Iterator[int]:
        held: list[int] = []
        for index in indices:
            held.append(index)
            if len(held) >= self.buffer:
                yield held.pop(random.randrange(len(held)))
        random.shuffle(held)
        yield from held


class Pictures(Dataset[Any]):
    """Batches of a given size in bytes: a sample is filled with its own index."""

    def __init__(self, count: int, nbytes: int, orders: Orders | None = None) -> None:
        self.count = count
        self.nbytes = nbytes
        self.orders = orders or Orders()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.orders.obey("sample", index)
        return torch.full((self.nbytes,), index % 251, dtype=torch.uint8)


# ---------------------------------------------------------------- functions


class _SelfDestruct:
    """Carries out an order while it is pickled: everything before it in the batch lies in the lease already."""

    def __init__(self, orders: Orders, key: int) -> None:
        self._orders, self._key = orders, key

    def __reduce__(self) -> Any:
        self._orders.obey("pickle", self._key)
        return int, (self._key,)


class Collate:
    """torch's default collate with orders before it, after it, and while its result is serialised.

    Args:
        orders: what to do; the key is the first sample's index.
        trap: deliver ``(batch, first index)`` whose second part obeys while it is pickled.
    """

    def __init__(self, orders: Orders, trap: bool = False) -> None:
        self.orders = orders
        self.trap = trap

    def __call__(self, samples: list[torch.Tensor]) -> Any:
        key = int(samples[0].reshape(-1)[0])
        self.orders.obey("collate", key)
        batch = default_collate(samples)
        self.orders.obey("collated", key)
        return (batch, _SelfDestruct(self.orders, key)) if self.trap else batch


class CollateDiesWith:
    """Dies whenever one sample is in the batch; the progress page cannot tell which."""

    def __init__(self, index: int, deed: str = "SIGKILL") -> None:
        self.index = index
        self.deed = deed

    def __call__(self, samples: Sequence[torch.Tensor]) -> torch.Tensor:
        if any(int(sample[0]) == self.index for sample in samples):
            DEEDS[self.deed]()
        return torch.stack(list(samples))


class InitFunction:
    """A ``worker_init_fn`` that obeys."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders

    def __call__(self, worker: int) -> None:
        self.orders.obey("init", worker)


_kept: list[Any] = []


def keep_all(samples: list[Any]) -> Any:
    """Collate, and check that what was collated before has kept its content: the worker's own cache, say."""
    for batch, copy in _kept:
        assert torch.equal(batch, copy), "a batch that the worker kept was overwritten"
    batch = default_collate(samples)
    _kept.append((batch, batch.clone()))
    return batch


def worker_facts(worker: int) -> None:
    """A ``worker_init_fn`` that leaves its mark on the dataset copy and on the generators."""
    info = get_worker_info()
    assert info is not None
    assert (info.id, info.seed) == (worker, torch.initial_seed())
    vars(info.dataset)["count_of_init"] = worker + 10
    random.random()
    np.random.random(worker + 1)
    torch.rand(worker + 2)


class WithFacts(Dataset[Any]):
    """Samples that tell what the worker believes about itself."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> dict[str, Any]:
        info = get_worker_info()
        assert info is not None
        return {
            "index": index,
            "worker": info.id,
            "workers": info.num_workers,
            "seed": info.seed,
            "own": info.dataset is self,
            "init": getattr(self, "count_of_init", -1),
            "draw": torch.rand(2).double() + random.random() + np.random.random(),
            "threads": torch.get_num_threads(),
        }


def jit_collate(samples: list[Any]) -> Any:
    """A batch whose class lives in a module that only this worker can import."""
    import only_in_the_worker  # type: ignore[import-not-found]

    return only_in_the_worker.Batch(default_collate(samples))


def hostile_import(worker: int) -> None:
    """A ``worker_init_fn`` that makes ``only_in_the_worker`` importable here."""
    info = get_worker_info()
    assert info is not None
    sys.path.append(vars(info.dataset)["inside"]["thing"])


def locked_batch(samples: list[Any]) -> Any:
    """Collate; two batches hold what cannot be carried."""
    batch = default_collate(samples)
    first = int(batch[0, 0])
    if first == 8:
        return batch, threading.Lock()
    if first == 20:
        return batch, torch.ones(3, requires_grad=True) * 2
    return batch


_served = itertools.count()


class Served(Draws):
    """Samples that tell when their process came to them: its first, its second, whichever loader asked."""

    def __getitem__(self, index: int) -> torch.Tensor:
        self.orders.obey("sample", index)
        return torch.tensor([index, next(_served)])


def other_habits(worker: int) -> None:
    """A ``worker_init_fn`` that changes what torch keeps for the whole process."""
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)


class Habitual(Dataset[torch.Tensor]):
    """Samples that tell what torch keeps for the whole process."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([torch.get_num_threads(), torch.ones(1).element_size()])


class Surroundings(Dataset[Any]):
    """What a process is, apart from its numbers: a fresh interpreter's, whichever way it started."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        import multiprocessing
        import warnings

        np.ones((500, 500)).dot(np.ones((500, 500)))  # now BLAS has all threads that it will have
        with open("/proc/self/status") as file:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in file)
        return {
            "argv": sys.argv,
            "path": sys.path,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "leads a session": os.getsid(0) == os.getpid(),
            "signals": [lines[name] for name in ("SigBlk", "SigIgn")],
            "streams": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
            "threads": (torch.get_num_threads(), threading.active_count(), lines["Threads"]),
            "affinity": sorted(os.sched_getaffinity(0)),
            "main": sys.modules["__main__"].__spec__,
            "process": multiprocessing.current_process().name,
            "key": bytes(multiprocessing.current_process().authkey),
            "filters": len(warnings.filters),
            "umask": lines["Umask"],
            "collecting": __import__("gc").isenabled(),
        }


def as_they_are(samples: list[Any]) -> list[Any]:
    """No collation."""
    return samples
