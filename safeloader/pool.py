"""``safeloader.WorkerPool``: one set of processes for several loaders."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from typing import TYPE_CHECKING, Any, Literal

from safeloader.config import Policy, resolve
from safeloader.errors import LoaderClosedError, SettingsError

if TYPE_CHECKING:
    from typing_extensions import Self

    from safeloader.config import Settings
    from safeloader.runtime.pool.shared_pool import SharedPool

__all__ = ["WorkerPool"]

_counter = itertools.count(1)


class WorkerPool:
    """Processes that several loaders share: train and val on the same four, started once.

    ::

        with WorkerPool(processes=4) as pool:
            train = DataLoader(train_set, num_workers=4, persistent_workers=True, policy=Policy(pool=pool))
            val = DataLoader(val_set, num_workers=2, persistent_workers=True, policy=Policy(pool=pool))

    Every loader keeps workers of its own (dataset copy, generators, ``get_worker_info()``), as many as its
    ``num_workers`` says, and gets the batches it would get from processes of its own, to the byte. Where several are
    iterated at once, a process shares its time among them. Loaders come and go; a loader that ends leaves the
    processes running. They start when the first loader needs them, and end with `close`, the ``with`` block, the
    program, or when nobody refers to the pool and its loaders any more.

    What a sample does to its process, it does to all loaders there: a process that dies or hangs is replaced for all
    of them, and only the loader whose sample was in work counts it as a fault. What installed packages keep in
    globals is common to the loaders of a process.

    A copy of a pool is the pool; in another process, unpickled, it is a new one of the same kind.

    Args:
        processes: How many there are at most, standbys apart; a loader uses no more than it has workers.
        start_method: How they start; None: as the environment, else the program says. (Loaders have no say in it.)
        accelerators: Leave CUDA and HIP devices visible in them; None: as the environment says. (One process cannot
            do both, so a loader's policy cannot differ.)
        standby: So many more wait, ready, to take the place of one that is lost; None: as the environment says.
        name: What processes and messages call it.

    Raises:
        SettingsError: `processes` is no positive integer, or another argument is not accepted.
    """

    def __init__(
        self,
        processes: int,
        *,
        start_method: Literal["spawn", "forkserver"] | None = None,
        accelerators: bool | None = None,
        standby: int | None = None,
        name: str | None = None,
    ) -> None:
        if type(processes) is not int or processes < 1:
            raise SettingsError(
                f"processes={processes!r} is not accepted: it must be an integer of at least 1",
                where="WorkerPool",
                hint="as many as the loader with the most workers has: WorkerPool(processes=4)",
            )
        self.processes = processes
        self.name: str = name or f"pool {next(_counter)}"
        self._policy = Policy(start_method=start_method, accelerators=accelerators, standby=standby)
        self._shared_pool: SharedPool | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def start(self) -> Self:
        """Start all processes now, rather than when the first loader is iterated; does not wait for them.

        Returns:
            The pool: ``pool = WorkerPool(processes=4).start()``.

        Raises:
            LoaderClosedError: the pool was closed.
            OSError: the system cannot start another process.
        """
        self.shared_pool().start()
        return self

    def close(self) -> None:
        """End all loaders' iterators that use the pool, and all processes, for good. Batches stay valid."""
        self._closed = True
        if self._shared_pool is not None:
            self._shared_pool.close()

    def shared_pool(self) -> Any:
        """What runs the processes; for loaders.

        Raises:
            LoaderClosedError: the pool was closed.
        """
        if self._closed:
            raise LoaderClosedError(
                f"the worker pool {self.name!r} was closed",
                hint="make a new WorkerPool and new loaders: close() ends a pool for good",
            )
        if self._shared_pool is None or self._shared_pool.foreign:
            from safeloader.core.placement import Reserve
            from safeloader.core.policy import RestartWindow
            from safeloader.runtime.pool.shared_pool import SharedPool
            from safeloader.start_method import Starting

            settings = resolve(self._policy)
            launcher = Starting(settings).launcher(None)
            faults = RestartWindow(settings.max_restarts, settings.restart_period)
            reserve = Reserve(settings.standby, settings.startup_timeout, faults)
            self._shared_pool = SharedPool(self.processes, self.name, settings.accelerators, launcher, reserve)
            weakref.finalize(self, self._shared_pool.close)
        return self._shared_pool

    def settings_for(self, settings: Settings) -> Settings:
        """A loader's settings on this pool.

        Raises:
            SettingsError: they contradict the pool's.
        """
        if settings.accelerators != resolve(self._policy).accelerators:
            raise SettingsError(
                f"accelerators={settings.accelerators} contradicts the worker pool's {not settings.accelerators}: "
                "one process cannot do both",
                where="Policy",
                hint="give it to the WorkerPool only",
            )
        if settings.sources["standby"] == "argument" and settings.standby != resolve(self._policy).standby:
            raise SettingsError(
                f"standby={settings.standby} is the worker pool's to say: its processes serve all its loaders",
                where="Policy",
                hint=f"WorkerPool(processes={self.processes}, standby={settings.standby})",
            )
        asked = settings.max_processes
        if asked is not None and asked <= self.processes:
            return settings
        sources = {**settings.sources, "max_processes": "pool"}
        return dataclasses.replace(settings, max_processes=self.processes, sources=sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.processes, self._policy, self.name)

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"WorkerPool(processes={self.processes}, name={self.name!r}{state})"


def _remade(processes: int, policy: Policy, name: str) -> WorkerPool:
    return WorkerPool(
        processes,
        start_method=policy.start_method,
        accelerators=policy.accelerators,
        standby=policy.standby,
        name=name,
    )
