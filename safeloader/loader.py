"""``safeloader.DataLoader``: torch's, with workers that may die.

A subclass of torch's loader with its whole signature; its iterators derive from torch's base iterator, so sampling,
seeding and warnings are torch's own code. Only how a batch is fetched is ours.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterable  # noqa: TC003 - tools read the constructor's type hints
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.multiprocessing
import torch.utils.data
from torch.utils.data import Dataset, Sampler  # noqa: TC002

from safeloader import ray, rebuilding
from safeloader.config import Policy, resolve
from safeloader.disabled import NO_STATE, without
from safeloader.distributed.elastic import ElasticDistributedSampler
from safeloader.errors import LoaderClosedError, StateError
from safeloader.iterators import ProcessIterator
from safeloader.loader_state import LoaderState, settings_of
from safeloader.recent_batches import Delivered, delivered
from safeloader.resume import distributed_checkpoint, joint_checkpoint, rewinding
from safeloader.resume.epoch_numbers import tell_epoch
from safeloader.single_process import SingleProcessIterator
from safeloader.start_method import of_the_library

if TYPE_CHECKING:
    from typing_extensions import Self

    from safeloader import torch_private
    from safeloader.observe import Report

__all__ = ["DataLoader"]

T_co = TypeVar("T_co", covariant=True)

_TORCH_ARGUMENTS = frozenset(inspect.signature(torch.utils.data.DataLoader.__init__).parameters)


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """A drop-in for ``torch.utils.data.DataLoader`` that finishes its epoch after any worker is killed or hangs.

    Same arguments, same batches in the same order, to the byte; two more keywords. With ``num_workers=0`` it is
    torch's single-process loading (except that a ``StopIteration`` out of a map-style dataset is an error and not a
    short epoch).

    torch's own arguments are those of ``torch.utils.data.DataLoader``; where something differs, it is said here.

    Args:
        dataset: as torch's. It is sent to the worker processes by value: also classes and lambdas of the main script.
            Locks and open files that it holds are made anew in each process.
        batch_size: as torch's; None: no automatic batching.
        shuffle: as torch's.
        sampler: as torch's; asked at the same moments.
        batch_sampler: as torch's.
        num_workers: as torch's: how many workers there are, with an id, a seed and a copy of the dataset each. How many
            processes serve them is another number, which falls after faults (`Policy(max_processes=...)`).
        collate_fn: as torch's; the default one collates straight into shared memory.
        pin_memory: as torch's, but the copy is made by the thread that asks for the batch; with
            ``Policy(pin_in_place=True)`` there is none.
        drop_last: as torch's.
        timeout: seconds; above 0 it is the ``batch_timeout``: a process that finishes no sample for so long is
            replaced, where torch raises an error.
        worker_init_fn: as torch's; called again in each process that takes a worker over.
        multiprocessing_context: ``"spawn"`` or ``"forkserver"`` (or such a context). ``"fork"`` is refused: processes
            are spawned, with a warning.
        generator: as torch's.
        prefetch_factor: as torch's: batches ahead for each worker; 2 by default.
        persistent_workers: as torch's; processes that died between epochs are replaced before the next.
        pin_memory_device: as torch's.
        in_order: as torch's; on a torch that does not know it yet, too.
        policy: what to do about faults; None takes everything from the environment and the defaults. torch's own
            ``timeout`` (seconds), where given, is the ``batch_timeout``.
        name: what logs and reports call this loader ("train", "val").
        snapshot_every_n_steps: how many batches lie between two states that a worker's dataset is asked for, if it has
            ``state_dict`` and ``load_state_dict``; what came after the last is loaded again on resuming. None asks as
            often as costs nothing (at most 0.5 % of a worker's time). Here for programs written for torchdata.

    Raises:
        SettingsError: the policy or a ``SAFELOADER_*`` variable is wrong.
        ForkRefusedError: fork was asked for under ``strict``.
        RanksDisagreeError: an epoch begins, and another rank iterates other data (`rank_check`).
    """

    policy: Policy | None
    name: str | None
    snapshot_every_n_steps: int | None

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Where safeloader is disabled, a loader has no state, as torch's has none."""
        if resolve().disable and not hasattr(cls, "_plain"):
            hidden = [
                name for name in ("state_dict", "load_state_dict") if getattr(cls, name) is vars(DataLoader)[name]
            ]
            cls = without(frozenset(hidden), cls)  # type: ignore[arg-type] # noqa: PLW0642 - what is made is of that class
        return object.__new__(cls)

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
            policy, name = rebuilding.inherited()
        self.policy = policy
        self.name = name
        self.snapshot_every_n_steps = _checked_steps(snapshot_every_n_steps)
        self._safe = LoaderState(name, settings_of(policy, timeout), num_workers)
        super().__init__(
            dataset, batch_size, shuffle, sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last,
            timeout, worker_init_fn,
            self._safe.starting.without_fork(of_the_library(multiprocessing_context), num_workers, 3),
            generator, prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device, **_newer_arguments(in_order=in_order),
        )  # fmt: skip
        self.in_order = in_order
        self._complete()

    def _complete(self) -> None:
        """All arguments are in place."""
        if isinstance(self.batch_sampler, ElasticDistributedSampler):
            # There frameworks look for it, which would put in a sampler of theirs, and programs, to number the epoch.
            object.__setattr__(self, "sampler", self.batch_sampler)
        self._safe.guard.identify(self)
        pool, settings = None if self.policy is None else self.policy.pool, self._safe.settings
        if pool is None:
            self._safe.starting.prestart(self)
        elif settings.prestart and self.num_workers and not settings.disable:
            pool.start()

    @property
    def multiprocessing_context(self) -> Any:
        """How processes are started; a context of multiprocess or billiard becomes the standard library's."""
        return super().multiprocessing_context

    @multiprocessing_context.setter
    def multiprocessing_context(self, context: Any) -> None:
        torchs: Any = super(DataLoader, type(self)).multiprocessing_context
        torchs.fset(self, of_the_library(context))

    def __iter__(self) -> torch_private.BaseIterator:
        if self._safe.closed:
            raise LoaderClosedError(
                f"{self._safe.name} was closed", hint="make a new DataLoader: close() ends a loader for good"
            )
        if isinstance(self._iterator, ProcessIterator) and self._iterator.closed:
            self._iterator = None  # it gave up: a new epoch begins with new processes
        self._safe.keeper.watch_epoch(self)
        self._safe.guard.begin(self, self._safe.keeper.begins_at())
        return super().__iter__()

    def _get_iterator(self) -> torch_private.BaseIterator:
        settings = self._safe.settings
        if settings.disable:
            return super()._get_iterator()
        if self.num_workers == 0:
            return SingleProcessIterator(self, self._safe)
        return ProcessIterator(self, self._safe)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: what was delivered, not what was prefetched.

        At any batch, before the first and after the last. It is plain JSON, except for what the ``state_dict`` of a
        sampler or dataset put into it. It costs nothing until it is called. Of several ranks each has its own. To
        ``torch.distributed.checkpoint`` it is one leaf of bytes a rank, to Lightning and Accelerate those of all ranks.

        Raises:
            StateError: the state is not known, or the dataset's ``state_dict`` failed.
        """
        self._refuse_disabled()
        if distributed_checkpoint.asks_for_names():
            return distributed_checkpoint.placeholder()
        state = self._safe.keeper.state_dict(self)
        if distributed_checkpoint.takes_leaves():
            return distributed_checkpoint.leaf(state)
        return joint_checkpoint.leaves(state, self._safe.name) if joint_checkpoint.is_written() else state

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
        if distributed_checkpoint.is_leaf(state_dict):
            state_dict = distributed_checkpoint.unleaf(state_dict)
        self._safe.keeper.load(self, state_dict)
        self._iterator = None

    def _refuse_disabled(self) -> None:
        if self._safe.settings.disable:
            raise StateError(NO_STATE, hint="unset it")

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
        tell_epoch(self, epoch)

    def rewind(self, batches: int = 1) -> None:
        """Give the last batches again: the iterator that runs goes back to before them, on its living processes.

        For a step that was not committed. It takes a map-style dataset, and any sampler: that is not asked again. The
        workers' generators are as they were, so the batches are the same, to the byte, as far as samples depend on
        their index and on random generators only.

        Args:
            batches: How many, at most 16, of those got in this epoch.

        Raises:
            SettingsError: the dataset is iterable, or the epoch is over and the sampler is no
                `ElasticDistributedSampler`.
            StateError: so many are not known, the dataset has a ``state_dict`` of its own, or there are no workers and
                no ``Policy(sample_rng=True)``; nothing has changed then.
        """
        rewinding.go_back(self, self._safe.face, self._safe.keeper, list(self._safe.delivered), batches)

    def reshard(self, num_replicas: int, rank: int) -> None:
        """Be one of other ranks from the next batch on: the iterator that runs goes on, on its living processes.

        For a group that lost or won members. It takes an `ElasticDistributedSampler`: the ranks share the samples that
        none has got. All ranks must have got as many batches.

        Args:
            num_replicas: How many ranks there are now.
            rank: This one's number.

        Raises:
            SettingsError: the loader has no such sampler, or there is no such rank; nothing has changed then.
        """
        rewinding.go_on_among(self, self._safe.face, self._safe.keeper, num_replicas, rank)

    def report(self) -> Report:
        """What happened so far: every fault with its cause, worker, batch, samples, stack and cost."""
        return self._safe.report()

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

    def _with_sampler(self, sampler: Any, batch_sampler: Any, generator: Any, worker_init_fn: Any) -> Self:
        """A loader like this one in all else; this one is ended, if it has begun anything."""
        self.close()
        made = copy.copy(self)
        for name, value in (
            ("sampler", sampler), ("batch_sampler", batch_sampler), ("generator", generator),
            ("worker_init_fn", worker_init_fn),
        ):  # fmt: skip
            object.__setattr__(made, name, value)
        made._complete()
        return made

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
        self.__dict__["_safe"] = LoaderState(self.name, settings_of(self.policy, self.timeout), self.num_workers)
        self._safe.guard.identify(self)


def _newer_arguments(**given: Any) -> dict[str, Any]:
    """Those arguments that the installed torch knows (``in_order`` came with 2.6; it is ours to obey in any case)."""
    return {name: value for name, value in given.items() if name in _TORCH_ARGUMENTS}


def _checked_steps(steps: int | None) -> int | None:
    if steps is not None and (isinstance(steps, bool) or operator.index(steps) < 0):
        raise ValueError(f"snapshot_every_n_steps must be a whole number of batches, or None, not {steps!r}")
    return steps


rebuilding.watch_accelerate(DataLoader)
ray.watch_ray(DataLoader)
