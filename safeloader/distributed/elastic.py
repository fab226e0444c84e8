"""A distributed sampler whose state any number of ranks can go on from.

The order of an epoch is a pure function of (seed, epoch, length). All ranks move over it together: a step takes
``world_size * batch_size`` positions, every ``world_size``-th of them is one rank's. So what all have seen after a step
is everything before a *cursor*, and the cursor is the state: other ranks, more or fewer, go on behind it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from safeloader.codes import warn
from safeloader.dist_env import ALONE, group
from safeloader.distributed.order import Order, order_of, weighted_order_of
from safeloader.errors import SettingsError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

__all__ = ["ElasticDistributedSampler"]

_BLOCK = 4096
_FORMAT = 1
Ends = Literal["pad", "drop", "even"]


class _Step(NamedTuple):
    """Positions that all ranks take together; what lies beyond the length is padding."""

    begin: int
    size: int


class ElasticDistributedSampler(DistributedSampler[Any]):
    """Like ``torch.utils.data.DistributedSampler``, and the number of ranks may change in the middle of an epoch.

    Without ``batch_size`` it gives indices and goes where a sampler goes. With it, it gives batches of indices and goes
    where a ``batch_sampler`` goes. ``state_dict()`` is the same on all ranks after the same step, and may be loaded by
    any number of ranks with any batch size (also as part of the state of the ``safeloader.DataLoader`` around it): they
    go on with exactly the samples not yet seen, each once. Memory is bounded and the first index comes at once, also of
    10**9 samples (weighted draws: 8 bytes a weight).

    Args:
        dataset: anything with a length; or a weighted sampler (``WeightedRandomSampler``), whose weights, number of
            samples and replacement are taken.
        num_replicas: number of ranks; None asks torch.distributed where it runs, else 1.
        rank: this one; None asks torch.distributed where it runs, else 0.
        shuffle: another order each epoch (``set_epoch``), else in sequence. Weighted draws are always random.
        seed: the same on all ranks.
        drop_last: as torch's: the same as ``ends="drop"``.
        ends: what happens where the samples do not go up evenly. ``"pad"``: some are repeated, so that all ranks get as
            many; ``"drop"``: some, fewer than there are ranks, are left out; ``"even"`` (needs ``batch_size``): none is
            repeated or left out, and all ranks take the same number of batches, the last two of which may be smaller.
            Where that cannot be, with fewer samples left than ranks or batches of one, what is over is left out, with
            a warning.
        batch_size: samples of a rank in a step.

    Raises:
        SettingsError: there are more ranks than samples, or an argument makes no sense.
    """

    elastic = True

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        ends: Ends | None = None,
        batch_size: int | None = None,
    ) -> None:
        # Not torch's constructor: a DistributedSampler it is for frameworks, which put one in where there is none.
        self.dataset = dataset  # type: ignore[assignment]
        self.num_replicas: int
        self.rank: int
        self.num_replicas, self.rank = _where(num_replicas, rank)
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.ends: Ends = ends or ("drop" if drop_last else "pad")
        self.batch_size = batch_size
        self.epoch: int = 0
        self._weights, self._replacement = _weights_of(dataset)
        self.length: int = int(getattr(dataset, "num_samples", 0)) if self._weights is not None else len(dataset)
        self._check()
        self._loaded = 0  # where the next epoch begins
        self._start = 0  # where the current one began
        self._given = 0  # samples of this rank since
        self._done = False
        self._order: tuple[int, Order] | None = None

    def _check(self) -> None:
        if self.ends not in ("pad", "drop", "even"):
            raise SettingsError(f'ends must be "pad", "drop" or "even", not {self.ends!r}')
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingsError(f"batch_size must be at least 1, or None, not {self.batch_size}")
        if self.ends == "even" and self.batch_size is None:
            raise SettingsError(
                'ends="even" needs batch_size: it makes the last batches smaller',
                hint="give batch_size to the sampler, and the sampler to the loader as batch_sampler",
            )
        if self.length < self.num_replicas:
            raise SettingsError(
                f"there are {self.num_replicas} ranks and only {self.length} samples",
                hint="use fewer ranks, or repeat the dataset",
            )

    # ------------------------------------------------------------ as torch's

    def set_epoch(self, epoch: int) -> None:
        """Number the epoch. Another number than that of a loaded state begins anew."""
        if epoch != self.epoch:
            self.epoch, self._loaded, self._start, self._given, self._done = epoch, 0, 0, 0, False

    def reshard(self, num_replicas: int, rank: int) -> None:
        """Be one of other ranks from the next ``iter()`` on; where all stand stays.

        Args:
            num_replicas: how many ranks there are from then on.
            rank: which of them this is, from 0.

        Raises:
            SettingsError: there is no such rank, or more ranks than samples; nothing has changed then.
        """
        before = self.num_replicas, self.rank
        try:
            self.num_replicas, self.rank = _where(num_replicas, rank)
            self._check()
        except SettingsError:
            self.num_replicas, self.rank = before
            raise

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Samples of this rank in a whole epoch, padding included."""
        return self._per_rank(0)

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Samples of all ranks in a whole epoch, padding included."""
        return self.num_samples * self.num_replicas

    def __len__(self) -> int:
        """Samples, or batches, of this rank in a whole epoch."""
        if self.batch_size is not None:
            return self._count_batches()
        return self._per_rank(0)

    def __iter__(self) -> Iterator[Any]:
        self._start, self._loaded = self._loaded, 0
        self._given, self._done = 0, self._start >= self.length
        if self._order is None or self._order[0] != self.epoch:
            self._order = self.epoch, self._make_order()
        order = self._order[1]
        yield from self._samples(order, self._start) if self.batch_size is None else self._batches(order, self._start)
        self._done = True

    def _samples(self, order: Order, start: int) -> Iterator[int]:
        count, world = self._per_rank(start), self.num_replicas
        for first in range(0, count, _BLOCK):
            own = np.arange(first, min(first + _BLOCK, count))
            for index in self._indices(order, start + self.rank + own * world):
                self._given += 1
                yield index

    def _batches(self, order: Order, start: int) -> Iterator[list[int]]:
        end = start
        for steps in _portions(self._steps(start), max(_BLOCK // (self.batch_size or 1), 1)):
            own = [np.arange(step.begin + self.rank, step.begin + step.size, self.num_replicas) for step in steps]
            indices = iter(self._indices(order, np.concatenate(own)))
            for step, positions in zip(steps, own, strict=True):
                self._given += len(positions)
                end = step.begin + step.size
                yield list(islice(indices, len(positions)))
        if self.ends == "even" and end < self.length:
            warn(
                "SL107",
                f"{self.length - end} samples are left out: {self.num_replicas} ranks cannot have as many batches each",
                stacklevel=3,
            )

    def _indices(self, order: Order, positions: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
        """The samples at these positions; padding begins the epoch's order again."""
        indices: list[int] = order.at(positions % self.length).tolist()
        return indices

    def _make_order(self) -> Order:
        if self._weights is not None:
            return weighted_order_of(self.seed, self.epoch, self._weights, self.length, self._replacement)
        return order_of(self.seed, self.epoch, self.length, self.shuffle)

    # ------------------------------------------------------------ who takes what

    def _per_rank(self, start: int) -> int:
        """Samples of each rank from a cursor on."""
        left, world = max(self.length - start, 0), self.num_replicas
        return left // world if self.ends == "drop" else -(-left // world)

    def _steps(self, start: int) -> Iterator[_Step]:
        """The steps from a cursor on."""
        whole = self.num_replicas * (self.batch_size or 1)
        left = max(self.length - start, 0)
        last = self._last_sizes(left)
        for begin in range(start, start + left - left % whole - (whole if len(last) > 1 else 0), whole):
            yield _Step(begin, whole)
            start = begin + whole
        for size in last:
            yield _Step(start, size)
            start += size

    def _last_sizes(self, left: int) -> list[int]:
        """The sizes of the last steps, whose batches may be smaller: none, one, or two in place of a whole one more."""
        world, batch = self.num_replicas, self.batch_size or 1
        over = left % (world * batch)
        if over == 0:
            return []
        if self.ends == "pad":
            return [-(-over // world) * world]
        if self.ends == "drop":
            return [over // world * world] if over >= world else []
        if over >= world:
            return [over]
        if batch > 1 and left > over:
            second = world * (batch // 2)
            return [world * batch + over - second, second]
        return []

    def _own_counts(self, start: int) -> Iterator[tuple[int, _Step]]:
        """How many samples of each step are this rank's."""
        for step in self._steps(start):
            yield len(range(self.rank, step.size, self.num_replicas)), step

    def _count_batches(self) -> int:
        whole = self.num_replicas * (self.batch_size or 1)
        last = len(self._last_sizes(self.length))
        return self.length // whole - (last > 1) + last

    def _cursor_after(self, given: int) -> int:
        """Where all ranks stand when this one was given so many samples."""
        if self.batch_size is None:
            return min(self._start + given * self.num_replicas, self.length)
        whole = max(given // self.batch_size - 2, 0)  # of these steps no batch is smaller
        cursor = self._start + whole * self.num_replicas * self.batch_size
        given -= whole * self.batch_size
        for count, step in self._own_counts(cursor):
            if given < count or given == 0:
                break
            given -= count
            cursor = step.begin + step.size
        return min(cursor, self.length)

    # ------------------------------------------------------------ the state

    def state_dict(self) -> dict[str, Any]:
        """Where all ranks stand after what this one was given so far."""
        return self.state_dict_before(0)

    def state_dict_before(self, samples: int | None) -> dict[str, Any]:
        """The same without the last so many samples of this rank: a loader has drawn them in advance.

        None stands for all that it was given: where its next epoch begins.
        """
        if self._loaded or samples is None:
            cursor = self._loaded
        elif self._done and samples == 0:
            cursor = self.length
        else:
            cursor = self._cursor_after(self._given - samples)
        return {"elastic": _FORMAT, "epoch": self.epoch, "cursor": cursor, **self._facts()}

    def _facts(self) -> dict[str, Any]:
        weighted = None if self._weights is None else [len(self._weights), self._replacement]
        return {"length": self.length, "seed": self.seed, "shuffle": self.shuffle, "weighted": weighted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next epoch begin where these ranks stood.

        Args:
            state_dict: what ``state_dict()`` gave, on any rank, with any number of ranks.

        Raises:
            StateError: the state is of another dataset, order or format; nothing has changed then.
        """
        hint = "give load_state_dict() what state_dict() of an ElasticDistributedSampler returned"
        if type(state_dict) is not dict or state_dict.get("elastic") != _FORMAT:
            raise StateError("this is no state of an ElasticDistributedSampler of this version", hint=hint)
        for name, here in self._facts().items():
            if state_dict.get(name) != here:
                raise StateError(
                    f"this state is of another order: {name} was {state_dict.get(name)!r} and is {here!r}",
                    hint="give the sampler the same dataset, seed and shuffle, or begin anew without the state",
                )
        epoch, cursor = state_dict.get("epoch"), state_dict.get("cursor")
        if type(epoch) is not int or type(cursor) is not int or not 0 <= cursor <= self.length:
            raise StateError(f"this state is damaged: epoch {epoch!r}, cursor {cursor!r}", hint=hint)
        self.epoch, self._loaded = epoch, cursor
        self._start, self._given, self._done = cursor, 0, False


def _portions(steps: Iterator[_Step], most: int) -> Iterator[list[_Step]]:
    """One step, then twice as many each time: the first comes at once, and many cost less each."""
    size = 1
    while portion := list(islice(steps, size)):
        yield portion
        size = min(2 * size, most)


def _where(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    here, there = group() or ALONE
    own, world = here if rank is None else rank, there if num_replicas is None else num_replicas
    if not 0 <= own < world:
        raise SettingsError(f"rank {own} is none of {world} ranks", hint="ranks count from 0")
    return world, own


def _weights_of(dataset: Any) -> tuple[np.ndarray[Any, np.dtype[np.float64]] | None, bool]:
    weights = getattr(dataset, "weights", None)
    if weights is None or not hasattr(dataset, "num_samples"):
        return None, False
    known = torch.as_tensor(weights, dtype=torch.float64).numpy()
    replacement = bool(getattr(dataset, "replacement", True))
    if not (np.isfinite(known).all() and (known >= 0).all() and known.any()):
        raise SettingsError("weights must be finite, none below zero, and not all zero")
    if not replacement and dataset.num_samples > np.count_nonzero(known):
        possible = np.count_nonzero(known)
        raise SettingsError(f"{dataset.num_samples} samples without replacement, of {possible} that may come")
    return known, replacement
