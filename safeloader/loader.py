"""``safeloader.DataLoader``: torch's, with workers that may die.

A subclass of torch's loader with its whole signature; its iterators derive from torch's base iterator, so sampling,
seeding and warnings are torch's own code. Only how a batch is fetched is ours.
"""

from __future__ import annotations

import inspect
import itertools
import operator
import uuid
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable  # noqa: TC003 - tools read the constructor's type hints
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.multiprocessing
import torch.utils.data
from torch.utils.data import Dataset, Sampler  # noqa: TC002

from . import rebuilding, torch_private
from .core.policy import CoreSettings
from .delivered import Delivered, delivered
from .errors import ForkRefusedError, LoaderClosedError, StateError
from .observe import Recorder, Report, stall
from .observe.status import Pass, loader_status
from .runtime.generators import Generators
from .runtime.keyed import Keyed
from .runtime.stateful import is_stateful
from .settings import Policy, Settings, resolve
from .starting import Starting
from .state.alone import restore_dataset, restore_iterator, worth_keeping
from .state.keeper import Keeper

if TYPE_CHECKING:
    from typing_extensions import Self

    from .observe.stall import Stall
    from .runtime.driver import Driver
    from .runtime.staff import Post
    from .runtime.whereabouts import Whereabouts
    from .showing import Phase

__all__ = ["DataLoader"]

T_co = TypeVar("T_co", covariant=True)

_TORCH_ARGUMENTS = frozenset(inspect.signature(torch.utils.data.DataLoader.__init__).parameters)
_counter = itertools.count(1)


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """A drop-in for ``torch.utils.data.DataLoader`` that finishes its epoch after any worker is killed or hangs.

    Same arguments, same batches in the same order, to the byte; two more keywords. With ``num_workers=0`` it is
    torch's single-process loading (except that a ``StopIteration`` out of a map-style dataset is an error and not a
    short epoch).

    Args:
        policy: what to do about faults; None takes everything from the environment and the defaults. torch's own
            ``timeout`` (seconds), where given, is the ``batch_timeout``.
        name: what logs and reports call this loader ("train", "val").
        snapshot_every_n_steps: how many batches lie between two states that a worker's dataset is asked for, if it has
            ``state_dict`` and ``load_state_dict``; what came after the last is loaded again on resuming. None asks as
            often as costs nothing (at most 0.5 % of a worker's time). Here for programs written for torchdata.

    Raises:
        SettingsError: the policy or a ``SAFELOADER_*`` variable is wrong.
        ForkRefusedError: fork was asked for under ``strict``.
    """

    policy: Policy | None
    name: str | None
    snapshot_every_n_steps: int | None

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        policy: Policy | None = None,
        name: str | None = None,
        snapshot_every_n_steps: int | None = None,
    ) -> None:
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy must be a safeloader.Policy or None, not {type(policy).__name__}")
        if policy is None and name is None:
            policy, name = rebuilding.inherited(dataset)
        self.policy = policy
        self.name = name
        self.snapshot_every_n_steps = _checked_steps(snapshot_every_n_steps)
        self._safe = _State(name or f"loader {next(_counter)}", _resolve(policy, timeout), num_workers)
        super().__init__(
            dataset, batch_size, shuffle, sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last,
            timeout, worker_init_fn, _without_fork(multiprocessing_context, num_workers, self._safe.settings, 3),
            generator, prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device, **_newer_arguments(in_order=in_order),
        )  # fmt: skip
        self.in_order = in_order
        if policy is None or policy.pool is None:
            self._safe.starting.prestart(self)
        elif self._safe.settings.prestart and num_workers and not self._safe.settings.disable:
            policy.pool.start()

    def __iter__(self) -> torch_private.BaseIterator:
        if self._safe.closed:
            raise LoaderClosedError(
                f"{self._safe.name} was closed", hint="make a new DataLoader: close() ends a loader for good"
            )
        if isinstance(self._iterator, ProcessIterator) and self._iterator.closed:
            self._iterator = None  # it gave up: a new epoch begins with new processes
        self._safe.keeper.watch_epoch(self)
        return super().__iter__()

    def _get_iterator(self) -> torch_private.BaseIterator:
        settings = self._safe.settings
        if settings.disable:
            return super()._get_iterator()
        if self.num_workers == 0:
            return SingleProcessIterator(self)
        _without_fork(self.multiprocessing_context, self.num_workers, settings, 5)
        self.check_worker_number_rationality()
        return ProcessIterator(self)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: what was delivered, not what was prefetched.

        At any batch, before the first and after the last. It is plain JSON, except for what the ``state_dict`` of a
        sampler or dataset put into it. It costs nothing until it is called. Of several ranks each has its own.

        Raises:
            StateError: the state is not known, or the dataset's ``state_dict`` failed.
        """
        self._refuse_disabled()
        return self._safe.keeper.state_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next ``iter()`` go on where a state was taken: the same batches, to the byte, and the same epochs.

        The main process's generators are set as they were then, at once, and again when an epoch is gone on with. An
        iterator that lives is let go. An empty dict means: begin anew.

        Args:
            state_dict: what ``state_dict()`` of the same loader returned, perhaps in another program, with any number
                of processes (``Policy(max_processes=...)``).

        Raises:
            StateError: it is of another loader, damaged or foreign; nothing has changed then.
        """
        self._refuse_disabled()
        self._safe.keeper.load(self, state_dict)
        self._iterator = None

    def _refuse_disabled(self) -> None:
        if self._safe.settings.disable:
            raise StateError("SAFELOADER_DISABLE leaves torch's plain loader, which has no state", hint="unset it")

    def set_epoch(self, epoch: int) -> None:
        """Number the next epoch.

        The number reaches the sampler, the dataset and its copies in living workers, where they have ``set_epoch``, and
        it is the epoch of ``Policy(sample_rng=True)``.

        Args:
            epoch: from 0 on; the epochs after it count on.
        """
        epoch = operator.index(epoch)
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, not {epoch}")
        self._safe.epochs = self._safe.told_epoch = epoch
        self._safe.keeper.tell_epoch(self, epoch)

    if not TYPE_CHECKING:  # else every attribute would seem to exist

        def __getattr__(self, name: str) -> Any:
            if name == rebuilding.MARK:
                rebuilding.about_to_rebuild(self)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def report(self) -> Report:
        """What happened so far: every fault with its cause, worker, batch, samples, stack and cost."""
        return self._safe.recorder.report()

    def recent_batches(self) -> list[Delivered]:
        """The last 16 batches that were delivered, newest last: epoch, number, worker, dataset indices.

        With ``on_bad_sample="skip"`` the indices of samples that were left out are still among them.
        """
        return [delivered(self, *told) for told in self._safe.delivered]

    def close(self) -> None:
        """End all processes of this loader, at once and for good. Batches already delivered stay valid."""
        self._safe.closed = True
        for iterator in list(self._safe.iterators):
            iterator.close()
        self._safe.starting.close()
        self._iterator = None
        self._safe.recorder.closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """A pickled or copied loader begins anew: it has no processes and an empty report."""
        state = {**self.__dict__, "_iterator": None}
        state["_safe"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__["_safe"] = _State(
            self.name or f"loader {next(_counter)}", _resolve(self.policy, self.timeout), self.num_workers
        )


class _State:
    """What a loader keeps besides torch's attributes."""

    def __init__(self, name: str, settings: Settings, num_workers: int) -> None:
        self.name = name
        self.settings = settings
        self.recorder = Recorder(name, settings, workers=num_workers)
        self.starting = Starting(settings)
        self.iterators: weakref.WeakSet[ProcessIterator] = weakref.WeakSet()
        self.closed = False
        self.epochs = 0  # the number of the next one
        self.told_epoch: int | None = None  # by set_epoch
        self.keeper = Keeper()
        self.delivered: deque[tuple[int, int, int | None, object]] = deque(maxlen=16)
        self.shown: Phase | None = None  # of the pass that is under way, under SAFELOADER_PROGRESS
        self.shown_by_hand = False
        self._watched = False
        self._pass: Pass | None = None
        self._loader: weakref.ref[DataLoader[Any]] | None = None

    def begin_pass(self, loader: DataLoader[Any]) -> None:
        """A consumer begins to iterate: watch it for stalls, and show it where that is asked for."""
        self._pass, self._loader = Pass.begin(self.recorder), weakref.ref(loader)
        if not self._watched:
            self._watched = True
            stall.watch(self.recorder.pulse, self.settings.stall_report, weakref.ref(self))
        if self.settings.progress and not self.shown_by_hand:
            from .showing import Phase, length_of

            self.end_pass("left early")
            self.shown = Phase(f"{self.name}, epoch {self.epochs + 1}", length_of(loader))

    def end_pass(self, how: str = "") -> None:
        """The pass is over."""
        if self.shown is not None:
            self.shown.end(how)
            self.shown = None

    def asks(self) -> None:
        """A batch is asked for."""
        self.recorder.pulse.asks()
        if self.shown is not None:
            self.shown.asks()

    def got(self) -> None:
        """It is there."""
        self.recorder.pulse.got()
        if self.shown is not None:
            self.shown.got()

    def failed(self, error: BaseException) -> None:
        """It does not come."""
        self.recorder.pulse.ended()
        self.end_pass("" if isinstance(error, StopIteration) else f"ended by {type(error).__name__}")

    def stalled(self, seen: Stall) -> None:
        """Tell of a stall; called by the watch's thread."""
        alive = [iterator for iterator in self.iterators if not iterator.closed]
        self.recorder.stalled(seen, alive[-1].whereabouts() if alive else None)

    def stall_ended(self, seconds: float) -> None:
        """Tell of its end."""
        self.recorder.stall_ended(seconds)

    def status(self) -> dict[str, Any]:
        """How this loader stands, for ``safeloader top``; called by the watch's thread."""
        alive = [iterator for iterator in self.iterators if not iterator.closed]
        crew = alive[-1].staff() if alive else []
        loader = None if self._loader is None else self._loader()
        return loader_status(self.recorder, self._pass, self.epochs - 1, _known_length(loader), crew)


def _known_length(loader: DataLoader[Any] | None) -> int | None:
    """Batches of an epoch; of an iterable dataset torch remembers that it was asked, so it is not."""
    if loader is None or torch_private.is_iterable(loader):
        return None
    try:
        return len(loader)
    except Exception:
        return None


def _newer_arguments(**given: Any) -> dict[str, Any]:
    """Those arguments that the installed torch knows (``in_order`` came with 2.6; it is ours to obey in any case)."""
    return {name: value for name, value in given.items() if name in _TORCH_ARGUMENTS}


def _resolve(policy: Policy | None, timeout: float) -> Settings:
    """torch's ``timeout`` is a batch timeout that was given as an argument; the policy's own goes first."""
    if timeout and timeout > 0 and (policy is None or policy.batch_timeout is None):
        import dataclasses

        policy = dataclasses.replace(policy or Policy(), batch_timeout=float(timeout))
    settings = resolve(policy)
    return settings if policy is None or policy.pool is None else policy.pool.settings_for(settings)


def _without_fork(context: Any, num_workers: int, settings: Settings, stacklevel: int) -> Any:
    """Refuse fork, whoever asks for it: the argument (name or context object), or the program's start method."""
    if num_workers == 0 or settings.disable:
        return context
    asked_by = ""
    if context is not None:
        method = context if isinstance(context, str) else getattr(context, "get_start_method", lambda: None)()
        asked_by = "multiprocessing_context" if method == "fork" else ""
    elif torch.multiprocessing.get_start_method(allow_none=True) == "fork":
        asked_by = "the program's start method"
    if not asked_by:
        return context
    text = (
        f"{asked_by} asks for fork: a forked worker inherits held locks, threads' half-done work and the accelerator's "
        'context, and hangs. safeloader starts its processes with spawn instead; to silence this, ask for "spawn"'
    )
    if settings.strict:
        raise ForkRefusedError(text, hint='give multiprocessing_context="spawn", or unset SAFELOADER_STRICT')
    warnings.warn(text, UserWarning, stacklevel=stacklevel)
    return "spawn" if context is not None else None


class SingleProcessIterator(torch_private.SingleProcessIterator):
    """torch's own, except that no ``StopIteration`` of a sample ends the epoch."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        keeper, point = loader._safe.keeper, loader._safe.keeper.waits()
        self._epoch = epoch = keeper.begin(loader, loader._safe.epochs)
        restore_dataset(loader.dataset, point)
        super().__init__(loader)
        restore_iterator(self._dataset_fetcher, point)
        state, self._sampler_iter = keeper.go_on(loader, epoch, self._sampler_iter)
        if state is not None and not state.over:
            self._sampler_iter = keeper.planned_first(state, self._sampler_iter)
            self._num_yielded = epoch.batch = state.batch
        self._loader_state = loader._safe
        loader._safe.begin_pass(loader)
        loader._safe.epochs = epoch.number + 1
        epoch.fetcher = self._dataset_fetcher if worth_keeping(self._dataset_fetcher) else None
        if (seed := keeper.seed_for_samples(loader)) is not None:
            self._dataset_fetcher.dataset = Keyed(self._dataset, seed, epoch.number)
        self._own_generators = Generators() if seed is not None else None
        self._indexed = not torch_private.is_iterable(loader)
        self._profile_name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"

    def _next_data(self) -> Any:
        state = self._loader_state
        state.asks()
        try:
            data = self._next_loaded()
        except BaseException as error:
            state.failed(error)
            raise
        state.got()
        state.recorder.batches += 1
        return data

    def _next_loaded(self) -> Any:
        epoch = self._epoch
        try:
            index = self._next_index()  # type: ignore[no-untyped-call]
        except StopIteration:
            epoch.over, epoch.draws = True, None
            raise
        epoch.taken = [index]
        try:
            data = self._fetch(index)
        except StopIteration as stop:
            if not self._indexed:
                epoch.over, epoch.draws, epoch.taken = True, None, None
                raise
            self._got(index)
            raise RuntimeError(
                f"the dataset raised StopIteration while batch {index!r} was loaded; torch would take that for the end "
                "of the epoch. Look for a bare next(...) in the dataset, its transforms or the collate function"
            ) from stop
        except Exception:
            self._got(index)
            raise
        if self._pin_memory:
            data = torch_private.pin(data, self._pin_memory_device)
        self._loader_state.delivered.append((epoch.number, self._num_yielded, None, index))
        self._got(index)
        return data

    def _got(self, index: Any) -> None:
        """This draw is done with."""
        epoch = self._epoch
        epoch.last, epoch.taken = index, None
        epoch.batch += 1

    def _fetch(self, index: Any) -> Any:
        if self._own_generators is None:
            return self._dataset_fetcher.fetch(index)
        mine = self._own_generators.capture()  # samples set the generators; the program's own are not theirs to move
        try:
            return self._dataset_fetcher.fetch(index)
        finally:
            self._own_generators.restore(mine)


class ProcessIterator(torch_private.BaseIterator):
    """Batches from supervised processes."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        keep = loader._safe.keeper.keep_generators(loader)
        super().__init__(loader)
        keep()
        if loader.prefetch_factor == 0:  # torch's constructor lets it pass, its iterator says this
            raise AssertionError("prefetch_factor must be greater than 0 for MultiProcessingDataLoaderIter")
        self._loader_state = loader._safe
        self._persistent = loader.persistent_workers
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._take_seeds(loader)
        self._driver = self._make_driver(loader)
        self._loader_state.delivered = self._driver.delivered
        self._finalizer = weakref.finalize(self, _close_driver, self._driver)
        loader._safe.iterators.add(self)
        self._ended = False
        self._reset(loader, first_iter=True)

    def _take_seeds(self, loader: DataLoader[Any]) -> None:
        """Where an epoch, or its living workers, are gone on with, the workers have the seeds that they had."""
        point = loader._safe.keeper.waits()
        if point is not None and (loader.persistent_workers or not point.state.over):
            self._base_seed, self._shared_seed = point.base_seed, point.shared_seed

    def _make_driver(self, loader: DataLoader[Any]) -> Driver:
        from .runtime.driver import Driver
        from .runtime.spec import HostConfig, Spec, authkey
        from .runtime.worker import LoadSpec

        settings = loader._safe.settings
        self._pool = None if loader.policy is None else loader.policy.pool
        crew = None if self._pool is None else self._pool.crew()
        iterable = torch_private.is_iterable(loader)
        load = LoadSpec(
            num_workers=loader.num_workers,
            iterable=iterable,
            auto_collation=self._auto_collation,
            batch_size=loader.batch_size or 1,
            drop_last=loader.drop_last,
            base_seed=int(self._base_seed),
            skip_raising=settings.on_bad_sample == "skip",
            sample_seed=loader._safe.keeper.seed_for_samples(loader),
            mark_every=_own_share(loader.snapshot_every_n_steps, loader.num_workers),
        )
        config = HostConfig(
            load, uuid.uuid4().hex, authkey(), loader._safe.name, settings.accelerators, settings.trace,
            _chaos(settings),
        )  # fmt: skip
        init_fn = torch_private.sharded_init_fn(self._dataset, loader.worker_init_fn, self._world_size, self._rank)
        spec = Spec(config, self._dataset, self._collate_fn, init_fn)
        starting = loader._safe.starting
        way = starting.way(loader.multiprocessing_context, spec) if crew is None else crew.way
        core = _core_settings(loader, settings, iterable, shared=crew is not None)
        return Driver(spec, way, core, loader._safe.recorder, self._finish(), starting.stock, crew)

    def _finish(self) -> Callable[[Any], Any] | None:
        if not self._pin_memory:
            return None
        device = self._pin_memory_device
        return lambda batch: torch_private.pin(batch, device)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        seed_at_start, safe, keeper = self._shared_seed, loader._safe, loader._safe.keeper
        self._epoch = epoch = keeper.begin(loader, safe.epochs)
        super()._reset(loader, first_iter)
        state, self._sampler_iter = keeper.go_on(loader, epoch, self._sampler_iter)
        self._ended = False
        # torch draws another shared seed even for a new iterator, whose workers it has given the one before.
        seed = seed_at_start if first_iter else self._shared_seed
        epoch.base_seed, epoch.shared_seed, epoch.driver = int(self._base_seed), seed, self._driver
        epoch.iterator = weakref.ref(self)
        if state is not None:
            self._num_yielded = 0 if state.over else state.batch
            state = keeper.packed(state, self._driver.spec.classes) if self._persistent or not state.over else None
        safe.begin_pass(loader)
        self._driver.begin_epoch(epoch.number, self._next_index, seed, safe.told_epoch, state)
        safe.epochs = epoch.number + 1

    def __next__(self) -> Any:
        """torch's, but without its profiler range (a tenth of a small batch's time) while nobody profiles."""
        if torch_private.profiling() or torch_private.length_was_asked(self):
            return super().__next__()
        data = self._next_data()
        self._num_yielded += 1
        return data

    def _next_data(self) -> Any:
        if self._ended:
            raise StopIteration
        state = self._loader_state
        state.asks()
        try:
            data = self._driver.next(self._next_index)
        except BaseException as error:
            state.failed(error)
            if isinstance(error, StopIteration):
                self._ended, self._epoch.draws = True, None
                if not self._persistent:
                    self.close()
            raise
        state.got()
        return data

    def whereabouts(self) -> Whereabouts:
        """Where the batch is that is due; may be asked from another thread."""
        from .runtime.whereabouts import whereabouts

        return whereabouts(self._driver)

    def staff(self) -> list[Post]:
        """Who serves its workers; may be asked from another thread."""
        from .runtime.staff import staff

        return staff(self._driver)

    @property
    def closed(self) -> bool:
        """True when its processes are gone for good."""
        return self._driver.closed

    def close(self) -> None:
        """End this iterator's processes."""
        self._finalizer()


def _chaos(settings: Settings) -> tuple[str, str] | None:
    """The faults that are to be made on purpose."""
    if settings.chaos is None:
        return None
    from .testing.program import handed

    plan, tally = handed(settings.chaos)
    return plan, tally


def _close_driver(driver: Driver) -> None:
    driver.close()


def _checked_steps(steps: int | None) -> int | None:
    if steps is not None and (isinstance(steps, bool) or operator.index(steps) < 0):
        raise ValueError(f"snapshot_every_n_steps must be a whole number of batches, or None, not {steps!r}")
    return steps


def _own_share(steps: int | None, num_workers: int) -> int | None:
    """Of so many batches, how many are one worker's."""
    return max(steps // num_workers, 1) if steps else None


def _core_settings(loader: DataLoader[Any], settings: Settings, iterable: bool, shared: bool) -> CoreSettings:
    return CoreSettings(
        num_workers=loader.num_workers,
        prefetch_factor=int(loader.prefetch_factor or 0),
        in_order=loader.in_order,
        indexed=not iterable,
        batched=loader._auto_collation,
        stateful=is_stateful(loader.dataset),
        batch_timeout=settings.batch_timeout,
        startup_timeout=settings.startup_timeout,
        max_restarts=settings.max_restarts,
        restart_period=settings.restart_period,
        fallback=settings.fallback,
        recover_after=settings.recover_after,
        on_bad_sample=settings.on_bad_sample,
        bad_sample_attempts=settings.bad_sample_attempts,
        max_processes=settings.max_processes,
        standby=0 if shared else settings.standby,
        shared=shared,
    )

