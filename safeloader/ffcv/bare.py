"""FFCV as it is, for ``SAFELOADER_DISABLE=1``: its own thread, its own ring of memory, no deadline, no second try."""

from __future__ import annotations

import contextlib
import weakref
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any

from safeloader.ffcv import pipelines
from safeloader.ffcv.backends import Arrived
from safeloader.ffcv.beton import Beton
from safeloader.ffcv.require import require

if TYPE_CHECKING:
    from safeloader.config import Settings
    from safeloader.ffcv.recipe import EnginePlace, Recipe
    from safeloader.observe import Recorder

__all__ = ["BareWay"]

_JOIN = 5.0


class BareWay:
    """As `Way`: bare FFCV over the user's own operations. Samples and order are those of the other ways.

    Args:
        recipe: What to run.
        settings: Not heeded.
        recorder: Told nothing.
    """

    def __init__(self, recipe: Recipe, settings: Settings, recorder: Recorder) -> None:
        self._recipe = recipe
        self._loader: Any = None
        self._iterator: Any = None
        self._end: Any = None
        self._size: int | None = None

    def begin(self, place: EnginePlace) -> None:
        """As `Way`."""
        from ffcv.loader.epoch_iterator import EpochIterator

        require()
        self.stop()
        given, beton = self._recipe.pipelines, Beton(self._recipe.path, self._recipe.custom_fields)
        factory = pipelines.is_factory(given)
        if self._loader is None or (factory and place.size != self._size):
            self._loader = self._make(pipelines.made(given, place.size or 0) if factory else given, beton)
        if place.size is not None and not factory:
            pipelines.resize_all(given, place.size)
        if self._recipe.recompile:
            self._loader.generate_code()
        self._size = place.size
        order = self._recipe.order
        samples = order.samples(place.epoch, beton)[place.batch * order.batch_size :]
        if not len(samples):
            self._iterator = iter(())
            return
        self._iterator = EpochIterator(self._loader, samples)
        self._end = weakref.finalize(self, _ended, self._iterator)  # at the program's end, too

    def _make(self, given: Any, beton: Beton) -> Any:
        from ffcv.loader import Loader
        from ffcv.pipeline import PipelineSpec

        recipe = self._recipe
        specs = {
            name: spec and PipelineSpec(spec.source, spec.decoder, list(spec.transforms))
            for name, spec in pipelines.completed(given, beton).items()
        }
        return Loader(
            recipe.path, recipe.order.batch_size, num_workers=recipe.num_workers, os_cache=recipe.os_cache, seed=0,
            pipelines=specs, custom_fields=recipe.custom_fields, drop_last=False, batches_ahead=recipe.batches_ahead,
            recompile=recipe.recompile,
        )  # fmt: skip

    def next(self) -> Arrived:
        """As `Way`."""
        return Arrived(tuple(next(self._iterator)), ())

    def stop(self) -> None:
        """As `Way`."""
        if self._end is not None:
            self._end()
        self._iterator = self._end = None

    def close(self) -> None:
        """As `Way`."""
        self.stop()
        self._loader = None


def _ended(iterator: Any) -> None:
    """End FFCV's thread: still at work when the interpreter ends, it aborts the program."""
    iterator.terminate_event.set()
    until = monotonic() + _JOIN
    while iterator.is_alive() and monotonic() < until:
        with contextlib.suppress(Empty):  # it waits for room
            iterator.output_queue.get_nowait()
        iterator.join(timeout=0.05)
    iterator.close()
