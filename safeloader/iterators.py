"""The iterator whose batches come from supervised processes."""

from __future__ import annotations

import dataclasses
import uuid
import weakref
from time import monotonic
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.core.policy import CoreSettings
from safeloader.core.state import beginning
from safeloader.errors import SettingsError
from safeloader.process_copies import shadow_for
from safeloader.resume.cursors import packed
from safeloader.runtime.child.dataset_state import is_exact, is_stateful
from safeloader.runtime.child.joint_beginnings import is_joint
from safeloader.single_process import Unprofiled
from safeloader.torch_idioms import TorchIdioms

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.data import DataLoader

    from safeloader.config import Pool
    from safeloader.loader_state import LoaderState
    from safeloader.runtime.memory.pinned import PinnedSlots
    from safeloader.runtime.pool.shared_pool import SharedPool
    from safeloader.runtime.trainer.driver import Driver
    from safeloader.runtime.trainer.inspection import Inspection

__all__ = ["ProcessIterator"]


class ProcessIterator(Unprofiled, TorchIdioms):
    """Batches from supervised processes.

    Args:
        loader: whose: safeloader's, or any that torch's own iterator would take.
        state: what is kept of it.
    """

    def __init__(self, loader: DataLoader[Any], state: LoaderState) -> None:
        pool, snapshots = _asked_of(loader, state)
        state.starting.check(loader, 5)
        keep = state.keeper.keep_generators(loader)
        super().__init__(loader)
        keep()
        if loader.prefetch_factor == 0:  # torch's constructor lets it pass
            raise AssertionError("prefetch_factor must be greater than 0 for MultiProcessingDataLoaderIter")
        self._loader_state, self._pool = state, pool
        self._persistent = self._persistent_workers = loader.persistent_workers
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._take_seeds(loader)
        self._driver = self._make_driver(loader, state, snapshots)
        self._loader_state.delivered = self._driver.delivered
        self._finalizer = weakref.finalize(self, _close_driver, self._driver)
        state.iterators.add(self)
        self._ended = False
        self._reset(loader, first_iter=True)

    def _take_seeds(self, loader: DataLoader[Any]) -> None:
        """Where an epoch, or its living workers, are gone on with, the workers have the seeds that they had."""
        point = self._loader_state.keeper.waits()
        if point is not None and (loader.persistent_workers or not point.state.over):
            self._base_seed, self._shared_seed = point.base_seed, point.shared_seed

    def _make_driver(self, loader: DataLoader[Any], state: LoaderState, snapshots: int | None) -> Driver:
        from safeloader.runtime.child.worker import LoadSpec
        from safeloader.runtime.payload import HostConfig, Payload, authkey
        from safeloader.runtime.trainer.driver import Driver

        settings = state.settings
        shared_pool: SharedPool | None = None if self._pool is None else self._pool.shared_pool()
        iterable, token = torch_private.is_iterable(loader), uuid.uuid4().hex
        load = LoadSpec(
            num_workers=loader.num_workers,
            iterable=iterable,
            auto_collation=self._auto_collation,
            batch_size=getattr(loader, "batch_size", None) or 1,
            drop_last=loader.drop_last,
            base_seed=int(self._base_seed),
            skip_raising=settings.on_bad_sample == "skip",
            sample_seed=state.keeper.seed_for_samples(loader),
            mark_every=_own_share(snapshots, loader.num_workers),
            token=token,
            digests=iterable or is_stateful(loader.dataset),
        )
        config = HostConfig(
            load, token, authkey(), state.name, settings.accelerators, settings.trace,
            _chaotic_worker(state), shadow=shadow_for(loader, state, pooled=shared_pool is not None),
        )  # fmt: skip
        init_fn = torch_private.sharded_init_fn(self._dataset, loader.worker_init_fn, self._world_size, self._rank)
        spec = Payload(config, self._dataset, self._collate_fn, init_fn)
        if spec.reopened:
            state.recorder.reopened(spec.reopened)
        starting = state.starting
        launcher = (
            starting.launcher(loader.multiprocessing_context, spec) if shared_pool is None else shared_pool.launcher
        )
        core = _core_settings(loader, state, iterable, shared=shared_pool is not None)
        reads = shared_pool is None and launcher.forks and spec.is_large  # who is started first waits for that
        # Who stands ready would read the dataset for a worker that is lost; a new process has it already.
        slowest, neighbours = (0.0, False) if reads else (launcher.slowest_start, core.neighbours)
        core = dataclasses.replace(core, slowest_start=slowest, neighbours=neighbours)
        core = state.group_timeout.fit(core)
        return Driver(
            spec, launcher, core, state.recorder, self._finish(), starting.prestarted, shared_pool, self._pinned(state)
        )

    def _pinned(self, state: LoaderState) -> PinnedSlots | None:
        if not self._pin_memory or not state.settings.pin_in_place:
            return None
        from safeloader.runtime.memory import pinned

        return pinned.made_for(state.name, self._pin_memory_device)

    def _finish(self) -> Callable[[Any], Any] | None:
        if not self._pin_memory:
            return None
        device = self._pin_memory_device
        return lambda batch: torch_private.pin(batch, device)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        seed_at_start, safe, keeper = self._shared_seed, self._loader_state, self._loader_state.keeper
        self._epoch = epoch = keeper.begin(loader, safe.epochs)
        super()._reset(loader, first_iter)
        self._length_was_asked = torch_private.length_was_asked(self)
        state, self._sampler_iter = keeper.go_on(loader, epoch, self._sampler_iter)
        first_turn = self._first_turn() if first_iter and state is None else 0
        self._ended = False
        # torch draws another shared seed even for a new iterator, whose workers it has given the one before.
        seed = seed_at_start if first_iter else self._shared_seed
        epoch.base_seed, epoch.shared_seed, epoch.driver = int(self._base_seed), seed, self._driver
        epoch.iterator = weakref.ref(self)
        if state is not None:
            self._num_yielded = 0 if state.over else state.batch
            state = packed(state, self._driver.spec.classes) if self._persistent or not state.over else None
        elif first_turn:
            state = beginning(epoch.number, first_turn, loader.num_workers)
        self._among_ranks = safe.guard.current
        safe.begin_pass(loader, epoch.number)
        self._driver.begin_epoch(epoch.number, self, seed, safe.told_epoch, state)
        safe.epochs = epoch.number + 1

    def _first_turn(self) -> int:
        """The worker that gets the first task."""
        return 0

    @property
    def ended(self) -> bool:
        """True when the consumer was told of the epoch's end, or the processes are gone."""
        return self._ended or self.closed

    def restart(self, loader: DataLoader[Any]) -> None:
        """Go on with the same epoch from where the sampler stands now, on the living processes."""
        self._reset(loader)
        self._among_ranks = None  # the others count from elsewhere

    def rewind(self, batches: int) -> bool:
        """Give the last batches again. False: so many are not known."""
        known = self._driver.rewind(self, batches)
        self._num_yielded -= batches if known else 0
        return known

    def draw(self, drawn: list[Any]) -> None:
        """Ask the sampler, by one call into C: what it gives is in the list then, whatever interrupts this thread."""
        before = self._epoch.before
        if before.is_needed:
            before.note()
        begun = monotonic()
        drawn.extend(map(next, (self._sampler_iter,)))
        self._loader_state.face.recorder.timings.drawn += monotonic() - begun

    def mend_draws(self, count: int) -> None:
        """An exception came while the sampler was asked; if that ended it, bring another to its place."""
        if isinstance(self._sampler_iter, GeneratorType) and self._sampler_iter.gi_frame is None:
            self._sampler_iter = self._loader_state.keeper.drawn_anew(self._loader_state.loader, self._epoch, count)

    def __next__(self) -> Any:
        driver, number = self._driver, self._num_yielded
        # fmt: off
        try:
            if torch_private.profiling() or self._length_was_asked: super().__next__()  # noqa: E701
            else: self._next_data()  # noqa: E701
        except BaseException as error:
            if error is driver.raised: driver.outcome = driver.raised = driver.shield.job = driver.here.value = None; raise  # noqa: E501, E701, E702 - nothing can come between
            raise
        outcome = driver.outcome
        assert outcome is not None, "a batch was taken by somebody else"
        self._num_yielded = number + 1; driver.outcome = None; return outcome.batch  # noqa: E702 - nothing can come between
        # fmt: on

    def _next_data(self) -> Any:
        if self._ended:
            raise StopIteration
        state = self._loader_state
        state.asks()
        try:
            data = self._driver.next(self)
        except BaseException as error:
            state.failed(error)
            if isinstance(error, StopIteration):
                self._ended, self._epoch.draws = True, None
                if not self._persistent:
                    self.close()
                state.guard.ended(self._among_ranks, self._num_yielded)
            raise
        state.face.recorder.timings.given(state.got())
        return data

    def shared_memory(self) -> int:
        """Bytes of shared memory that its batches take now."""
        return self._driver.arena.used()

    @property
    def drawing(self) -> bool:
        """True while the sampler is asked for indices; may be asked from another thread."""
        return self._driver.drawing

    def inspect(self) -> Inspection:
        """What its workers are at, and the batch that is due; may be asked from another thread."""
        from safeloader.runtime.trainer.inspection import inspect

        return inspect(self._driver)

    @property
    def closed(self) -> bool:
        """True when its processes are gone for good."""
        return self._driver.closed

    def close(self) -> None:
        """End this iterator's processes."""
        self._driver.close()
        self._finalizer.detach()


def _asked_of(loader: Any, state: LoaderState) -> tuple[Pool | None, int | None]:
    """Whose processes serve a loader (None: its own), and how many batches lie between two states of its dataset.

    A loader that is not safeloader's has no say.
    """
    if getattr(loader, "_safe", None) is not state:
        return None, None
    pool = None if loader.policy is None else loader.policy.pool
    if pool is not None and pool.processes < loader.num_workers and is_joint(loader.dataset):
        raise SettingsError(
            f"the workers of this dataset wait for one another, and the pool has {pool.processes} processes for "
            f"{loader.num_workers} of them",
            where=state.name,
            hint=f"WorkerPool(processes={loader.num_workers}), or a loader without a pool",
        )
    return pool, loader.snapshot_every_n_steps


def _chaotic_worker(state: LoaderState) -> tuple[str, tuple[str, ...]] | None:
    """What makes the workers where faults are to be made on purpose; None: plain ones."""
    if state.settings.chaos is None:
        return None
    from safeloader.fault_tally import handed

    return "safeloader.testing.chaotic:ChaoticWorker", (*handed(state.settings.chaos), state.name)


def _close_driver(driver: Driver) -> None:
    driver.close()


def _own_share(steps: int | None, num_workers: int) -> int | None:
    """Of so many batches, how many are one worker's."""
    return max(steps // num_workers, 1) if steps else None


def _core_settings(loader: DataLoader[Any], state: LoaderState, iterable: bool, shared: bool) -> CoreSettings:
    settings = state.settings
    seeded = state.keeper.seed_for_samples(loader) is not None and not is_stateful(loader.dataset)
    joint = iterable and is_joint(loader.dataset)  # each worker waits for all others: each has a process
    return CoreSettings(
        num_workers=loader.num_workers,
        prefetch_factor=int(loader.prefetch_factor or 0),
        in_order=getattr(loader, "in_order", True),  # torch has it from 2.6 on
        indexed=not iterable,
        batched=loader._auto_collation,
        stateful=is_stateful(loader.dataset),
        exact_state=settings.trust_state or is_exact(loader.dataset),
        on_divergence="raise" if settings.strict else settings.on_divergence,
        stateless=seeded,
        neighbours=not (iterable or shared or is_stateful(loader.dataset)) and loader.worker_init_fn is None,
        batch_timeout=settings.batch_timeout,
        startup_timeout=settings.startup_timeout,
        max_restarts=settings.max_restarts,
        restart_period=settings.restart_period,
        fallback="off" if joint else settings.fallback,
        recover_after=settings.recover_after,
        on_bad_sample=settings.on_bad_sample,
        bad_sample_attempts=settings.bad_sample_attempts,
        max_processes=None if joint else settings.max_processes,
        standby=0 if shared else settings.standby,
        shared=shared,
    )
