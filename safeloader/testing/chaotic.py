"""A worker that comes to harm as planned. Imported by a process only where there is a plan."""

from __future__ import annotations

import copy
import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import torch

from safeloader.fault_plan import ChaosError, Planned, parse
from safeloader.runtime.child.worker import Loaded, Marks, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.child.generators import Generators
    from safeloader.runtime.child.worker import LoadSpec
    from safeloader.runtime.child.worker_place import WorkerPlace

__all__ = ["ChaoticWorker"]

_MOST = 255  # a byte in the tally


class _Marks(Marks):
    """Marks progress as before, and then looks whether this sample is one."""

    def __init__(self, marks: Marks, look: Callable[[int], None]) -> None:
        def sample(position: int) -> None:
            mark(position)
            look(position)

        mark = marks.sample
        self.sample = sample  # type: ignore[method-assign]
        self.collate = marks.collate  # type: ignore[method-assign]
        self.replayed = marks.replayed  # type: ignore[method-assign]


class ChaoticWorker(Worker):
    """As a worker, but for what is planned.

    Args:
        text: the plan.
        tally: the file that tells how often each fault was done.
        name: the loader's.
        spec, dataset, collate_fn, init_fn, place, generators, marks, more, own: as for ``Worker``.
    """

    def __init__(
        self,
        text: str,
        tally: str,
        name: str,
        spec: LoadSpec,
        dataset: Any,
        collate_fn: Callable[[Any], Any],
        init_fn: Callable[[int], None] | None,
        place: WorkerPlace,
        generators: Generators,
        marks: Marks,
        *more: Any,
        **own: Any,
    ) -> None:
        self._tally = tally
        self._plan = [
            fault for fault in parse(text) if fault.loader in (None, name) and fault.worker in (None, place.worker)
        ]
        self._epoch, self._begun = place.epoch, place.position
        self._indices: Any = None  # of the batch in work; None while nothing is loaded, or old batches are replayed
        looking = _Marks(marks, self._look_at_sample)
        super().__init__(spec, dataset, collate_fn, init_fn, place, generators, looking, *more, **own)

    def resume(self, shared_seed: int | None, epoch: int = 0, told_epoch: int | None = None) -> None:
        """A new epoch."""
        self._epoch, self._begun = epoch, 0
        super().resume(shared_seed, epoch, told_epoch)

    def load(self, indices: Any, skip: tuple[int, ...] = ()) -> Loaded:
        """One batch; before it, in it or to it happens what is planned."""
        batch = self._begun * self._spec.num_workers + self.id
        self._begun += 1
        here = [f for f in self._plan if f.epoch in (None, self._epoch) and f.batch in (None, batch)]
        self._here = [f for f in here if f.sample is not None and f.kind != "nan"]
        at_once = getattr(self._dataset, "__getitems__", None) is not None  # such a dataset marks no samples
        for fault in here:
            if fault.kind != "nan" and (fault.sample is None or (at_once and _position(fault, indices) is not None)):
                self._do(fault)
        self._indices = indices if not at_once else None
        try:
            loaded = super().load(indices, skip)
        finally:
            self._indices = None
        for fault in here:
            if fault.kind == "nan" and (fault.sample is None or _position(fault, indices) is not None):
                loaded = self._spoil(fault, loaded, indices)
        return loaded

    def _look_at_sample(self, position: int) -> None:
        if self._indices is None or not self._here:
            return
        index = self._indices[position] if isinstance(self._indices, (list, tuple)) else self._indices
        for fault in self._here:
            if fault.sample == index:
                self._do(fault)

    # ------------------------------------------------------------ deeds

    def _claim(self, fault: Planned) -> bool:
        """Whether it is to be done once more. Written down first: this process may not be there afterwards."""
        with open(self._tally, "r+b", buffering=0) as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, fault.number)  # the kernel frees it, however this process ends
            done = os.pread(file.fileno(), 1, fault.number)[0]
            if fault.times is not None and done >= fault.times:
                return False
            os.pwrite(file.fileno(), bytes([min(done + 1, _MOST)]), fault.number)
        return True

    def _do(self, fault: Planned) -> None:
        if not self._claim(fault):
            return
        if fault.kind in ("kill", "oom"):
            _fill(fault.megabytes if fault.kind == "oom" else 0)
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == "exit":
            os._exit(fault.code)
        elif fault.kind == "slow":
            time.sleep(fault.seconds)
        elif fault.kind == "raise":
            raise ChaosError(f"made on purpose: {fault.text}")
        while fault.kind == "hang":
            time.sleep(3600)

    def _spoil(self, fault: Planned, loaded: Loaded, indices: Any) -> Loaded:
        from safeloader.training.scan import leaves

        if loaded.empty or not self._claim(fault):
            return loaded
        batch = copy.deepcopy(loaded.batch)  # a batch may be the dataset's own memory
        row = _position(fault, indices) or 0
        for _, leaf in leaves(batch):
            if hasattr(leaf, "shape") and (not isinstance(leaf, torch.Tensor) or leaf.is_floating_point()):
                flat = leaf[row].reshape(-1) if leaf.ndim and len(leaf) > row else leaf.reshape(-1)
                flat[0] = float("nan")
                return loaded._replace(batch=batch)
        raise ChaosError(f"{fault.text}: the batch holds no floating-point tensor")


def _position(fault: Planned, indices: Any) -> int | None:
    if fault.sample is None:
        return None
    listed = list(indices) if isinstance(indices, (list, tuple)) else [indices]
    return listed.index(fault.sample) if fault.sample in listed else None


def _fill(megabytes: int) -> list[bytearray]:
    """Take memory and touch each page of it."""
    return [bytearray(b"\1" * (1 << 20)) for _ in range(megabytes)]
