"""A loader of the same kind for an audit: over the same file, with copies of the operations, at the same epoch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeloader.ffcv import pipelines as pipes
from safeloader.ffcv.loader import Loader
from safeloader.ffcv.operations import Factory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Rehearsal"]

_RANDOM = ("Random", "Cutout", "Mixup")  # in the names of FFCV's operations that draw


@dataclass
class Rehearsal:
    """What an audit runs, and what the loader's arguments promise.

    Attributes:
        loader: To iterate over; closed by whoever asked for it.
        length: Samples in the file.
        complete: The order means to serve each once.
        shuffled: The order means to differ by epoch.
        dropped: Samples that ``drop_last`` may leave out, on all ranks together.
        padded: Samples that may be repeated to make the ranks even.
        draws: An operation draws random numbers.
    """

    loader: Loader
    length: int
    complete: bool
    shuffled: bool
    dropped: int
    padded: int
    draws: bool

    @classmethod
    def of(cls, loader: Loader) -> Rehearsal:
        """The rehearsal of a loader, as it stands. Where it is distributed, all ranks call it.

        Raises:
            Exception: An operation cannot be copied.
        """
        order, recipe, arguments = loader._order, loader._recipe, loader._arguments
        given: Any = recipe.pipelines
        factory = isinstance(given, Factory)
        now: dict[str, Any] = {
            "name": f"audit of {loader.name}", "batch_size": order.batch_size, "drop_last": order.drop_last,
            "seed": recipe.seed, "indices": order.indices, "num_workers": recipe.num_workers,
            "recompile": recipe.recompile, "batches_ahead": recipe.batches_ahead,
            "pipelines": arguments["pipelines"] if factory else copy.deepcopy(given),
        }  # fmt: skip
        made = Loader(**{**arguments, **now})
        made._use(order=order)  # one that was set by hand, too
        made.set_epoch(loader.next_epoch)
        named = order.kind if isinstance(order.kind, str) else ""
        whole = len(set(order.indices.tolist())) == loader._beton.num_samples
        operations = [] if factory else pipes.operations_of(given)
        return cls(
            made, loader._beton.num_samples, whole and bool(named), named != "SEQUENTIAL",
            order.dropped * order.world_size, order.world_size - 1,
            any(word in type(operation).__name__ for operation in operations for word in _RANDOM),
        )  # fmt: skip

    def samples(self, batches: int | None) -> Iterator[tuple[int, Sequence[Any]]]:
        """Each sample of the next epoch: its index, and its part of the batch.

        Args:
            batches: Only of so many batches.
        """
        for number, batch in enumerate(self.loader):
            if number == batches:
                break
            for row, index in enumerate(self.loader.recent_batches()[-1].indices or ()):
                yield index, [part[row] for part in batch]
