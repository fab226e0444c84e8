"""The public names of ``ffcv.loader.Loader``: each works here, or says why it cannot. None is ignored.

What FFCV reads at each epoch can be set, and holds from the next one on; more can be set here than FFCV would heed.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from safeloader.errors import SettingsError
from safeloader.ffcv import arguments
from safeloader.ffcv import pipelines as pipes
from safeloader.ffcv.operations import Factory
from safeloader.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from safeloader.ffcv.beton import Beton
    from safeloader.ffcv.ladder import Ladder
    from safeloader.ffcv.order import SampleOrder
    from safeloader.ffcv.recipe import Recipe

__all__ = ["FFCVNames"]

_INSIDE = ("graph", "code", "memory_manager")  # FFCV's own objects: here only where FFCV runs in the trainer
_AT_THE_START = (
    "fname", "distributed", "os_cache", "order", "custom_fields", "copy", "policy", "resize", "pipelines",
    "pipeline_specs", "field_name_to_f_ix", "reader", "first_traversal_order", *_INSIDE,
)  # fmt: skip
_SETTABLE = (
    "batch_size", "drop_last", "seed", "indices", "num_workers", "batches_ahead", "recompile", "next_epoch",
    "traversal_order", "name",
)  # fmt: skip


class FFCVNames:
    """Names that FFCV's loader has; `Loader` derives from it."""

    _beton: Beton
    _order: SampleOrder
    _recipe: Recipe
    _ladder: Ladder
    _epoch: int
    _batch: int
    _anew: int
    _made: bool
    _arguments: dict[str, Any]
    name: str

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and getattr(self, "_made", False):
            if name in _AT_THE_START:
                raise SettingsError(
                    f"{name} is decided when a loader is made, and cannot be set afterwards",
                    where=self.name,
                    hint="make another loader; it reads no data until it is iterated over",
                )
            guess = nearest(name, (*_SETTABLE, *_AT_THE_START)) if name not in _SETTABLE else ""
            if guess:
                raise SettingsError(f"a loader has no {name}; {guess}", where=self.name)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _INSIDE and getattr(self, "_made", False):
            inner = getattr(getattr(self._ladder.way, "_engine", None), "loader", None)
            if inner is None:
                raise AttributeError(
                    f"{name} is FFCV's own, and is here only where FFCV runs in the trainer, from the first batch on: "
                    "Policy(ffcv_mode='trainer')"
                )
            return getattr(inner, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _use(self, **changed: Any) -> None:
        """From the next epoch on, another recipe."""
        self._recipe = replace(self._recipe, **changed)
        self._order = self._recipe.order

    def _reorder(self, **changed: Any) -> None:
        if self._batch:
            raise SettingsError(
                f"{', '.join(changed)} cannot be set between load_state_dict and the rest of its epoch", where=self.name
            )
        order = replace(self._order, **changed)
        if not len(order):
            raise SettingsError(f"an epoch would have no batch with {changed}", where=self.name)
        self._use(order=order)

    # ------------------------------------------------------------ what can be set

    @property
    def batch_size(self) -> int:
        """Samples a batch; of the epoch that is iterated over, as it was when that began."""
        return self._order.batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self._reorder(batch_size=arguments.count(value, "batch_size"))

    @property
    def drop_last(self) -> bool:
        """Leave out a last batch that is not full."""
        return self._order.drop_last

    @drop_last.setter
    def drop_last(self, value: bool) -> None:
        self._reorder(drop_last=bool(value))

    @property
    def seed(self) -> int:
        """Seed of order and augmentation."""
        return self._order.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._reorder(seed=arguments.count(value, "seed", least=0))
        self._use(seed=self._order.seed)

    @property
    def indices(self) -> np.ndarray[Any, Any]:
        """The samples that take part."""
        return self._order.indices

    @indices.setter
    def indices(self, value: Any) -> None:
        self._reorder(indices=arguments.indices(value, self._beton.num_samples), length=None)

    @property
    def batches_ahead(self) -> int:
        """Batches made in advance."""
        return self._recipe.batches_ahead

    @batches_ahead.setter
    def batches_ahead(self, value: int) -> None:
        self._use(batches_ahead=arguments.count(value, "batches_ahead"))

    @property
    def recompile(self) -> bool:
        """Take the operations' code anew each epoch, changed or not."""
        return self._recipe.recompile

    @recompile.setter
    def recompile(self, value: bool) -> None:
        self._use(recompile=bool(value))

    @property
    def num_workers(self) -> int:
        """FFCV's threads."""
        return self._recipe.num_workers

    @num_workers.setter
    def num_workers(self, value: int) -> None:
        self._use(num_workers=arguments.workers(value, self.name))

    @property
    def next_epoch(self) -> int:
        """The epoch of the next iteration. Setting it is ``set_epoch``."""
        return self._epoch

    @next_epoch.setter
    def next_epoch(self, value: int) -> None:
        self.set_epoch(arguments.count(value, "next_epoch", least=0))

    def set_epoch(self, epoch: int) -> None:
        """See `Loader`."""
        raise NotImplementedError

    @property
    def traversal_order(self) -> Any:
        """FFCV's object: ``sample_order(epoch)``. Another one, ``MyOrder(loader)``, can be set."""
        return self._order.as_ffcv(self._beton)

    @traversal_order.setter
    def traversal_order(self, value: Any) -> None:
        from ffcv.traversal_order.base import TraversalOrder

        if not isinstance(value, TraversalOrder):
            raise SettingsError(f"traversal_order must be a TraversalOrder, not {value!r}", where=self.name)
        kind: Any = copy.copy(value)
        kind.loader = None  # it is given what it may look at, in whichever process it is asked
        self._reorder(kind=kind, length=len(value.sample_order(0)))

    # ------------------------------------------------------------ what can be read

    @property
    def fname(self) -> str:
        """The file."""
        return self._beton.path

    @property
    def distributed(self) -> bool:
        """Each rank takes its share."""
        return self._order.rank is not None

    @property
    def reader(self) -> Any:
        """FFCV's reader of the file's tables."""
        if "_reader" not in vars(self):
            from ffcv.reader import Reader

            self._reader = Reader(self.fname, self._recipe.custom_fields)
        return self._reader

    @property
    def pipelines(self) -> dict[str, Any]:
        """Empty, as FFCV's is: see ``pipeline_specs``."""
        return {}

    @property
    def pipeline_specs(self) -> dict[str, Any]:
        """FFCV's specification of each pipeline, of the operations that the loader was given."""
        given = self._recipe.pipelines
        if isinstance(given, Factory):
            raise AttributeError("pipelines is a function of the size: call it")
        return {name: pipes.with_decoder(spec, self._beton) for name, spec in given.items() if spec is not None}

    @property
    def field_name_to_f_ix(self) -> dict[str, int]:
        """The number of each field."""
        return {name: number for number, name in enumerate(self._beton.fields)}

    @property
    def first_traversal_order(self) -> np.ndarray[Any, Any]:
        """The samples of epoch 0, in order, with those that drop_last leaves out."""
        return self._order.everything(0, self._beton)

    def next_traversal_order(self) -> np.ndarray[Any, Any]:
        """The samples of the next epoch, in order, with those that drop_last leaves out."""
        return self._order.everything(self._epoch, self._beton)

    def generate_code(self) -> None:
        """The next epoch takes the code of all operations anew. Attributes that changed are heeded without it."""
        self._anew += 1

    def filter(self, field_name: str, condition: Callable[[Any], bool]) -> Any:
        """A new loader over those samples of this one whose field meets a condition.

        Args:
            field_name: The field; its pipeline is that of this loader, and the only one that is run.
            condition: Called with each sample's value.

        Raises:
            SettingsError: There is no such pipeline, or no sample meets the condition.
        """
        given = self._recipe.pipelines
        mapping: Mapping[str, Any] = pipes.made(given, self._first_size()) if isinstance(given, Factory) else given
        if mapping.get(field_name) is None:
            known = ", ".join(name for name, spec in mapping.items() if spec is not None)
            raise SettingsError(f"there is no pipeline of {field_name!r} to filter by; there are {known}")
        alone = {**dict.fromkeys(self._beton.fields), **dict.fromkeys(mapping), field_name: mapping[field_name]}
        now = self._arguments | {name: getattr(self, name) for name in _SETTABLE if name in self._arguments}
        now["name"] = f"{self.name}, filtered"
        only = {"pipelines": alone, "order": "SEQUENTIAL", "drop_last": False, "distributed": False, "resize": None}
        with type(self)(**{**now, **only}) as samples:  # type: ignore[attr-defined]
            wanted = [bool(condition(value)) for (batch,) in samples for value in batch]
        if not any(wanted):
            raise SettingsError(f"no sample meets the condition on {field_name!r}", where=self.name)
        return type(self)(**{**now, "indices": self.indices[np.array(wanted)]})

    def _first_size(self) -> int:
        resize = self._arguments["resize"]
        return 0 if resize is None else int(resize.size_at(0))
