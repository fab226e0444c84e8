"""A process has one set of generators, one ``get_worker_info()``, one ``__main__``: those of the worker that is in."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

import torch

from safeloader.runtime.child.generators import Generators

if TYPE_CHECKING:
    from safeloader.runtime.child.main_script import Script
    from safeloader.runtime.child.worker import Worker

__all__ = ["ActiveWorker", "TorchGlobals"]


class ActiveWorker:
    """Which worker is active in this process, among those of all its loaders."""

    def __init__(self) -> None:
        self.generators = Generators()
        self.holder: Worker | None = None
        self.scripts: weakref.WeakKeyDictionary[Worker, Script] = weakref.WeakKeyDictionary()
        self._fresh = True

    def is_first(self) -> bool:
        """True once: of the first worker that is set up here."""
        fresh, self._fresh = self._fresh, False
        return fresh

    def give(self, worker: Worker | None) -> None:
        """Let another worker in: the generators of this process become its own."""
        if worker is not self.holder:
            if self.holder is not None:
                self.holder.leave()
            self.holder = worker
            if worker is not None:
                worker.enter()
                if worker in self.scripts:
                    self.scripts[worker].be_main()


class TorchGlobals(NamedTuple):
    """Settings of torch that a loader's functions may change for their process (a ``worker_init_fn``, say), and that
    another loader's must not feel."""

    threads: int
    dtype: torch.dtype
    gradients: bool

    @classmethod
    def now(cls) -> TorchGlobals:
        return cls(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())

    def take_up(self, instead_of: TorchGlobals) -> None:
        """Make these the process's."""
        if self == instead_of:
            return
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.gradients)
