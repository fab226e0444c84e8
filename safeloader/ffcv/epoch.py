"""The iterator of one epoch: it knows its place, and hands out what the loader's present way makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from safeloader.errors import BadSampleError, ConcurrentUseError
from safeloader.observe.events import Fault

if TYPE_CHECKING:
    from collections import deque

    from safeloader.config import Settings
    from safeloader.ffcv.backends import Arrived
    from safeloader.ffcv.beton import Beton
    from safeloader.ffcv.ladder import Ladder
    from safeloader.ffcv.order import SampleOrder
    from safeloader.ffcv.recipe import EnginePlace
    from safeloader.loader_state import LoaderState
    from safeloader.observe import Recorder, Report

__all__ = ["Epoch", "Standing"]


class Iterated(Protocol):
    """What an epoch needs of its loader, a `safeloader.ffcv.loader.Loader`, which lives as long as its epoch does."""

    name: str
    _beton: Beton
    _delivered: deque[tuple[int, int, SampleOrder, set[int]]]
    _ladder: Ladder
    _recorder: Recorder
    _settings: Settings
    _state: LoaderState

    def _usable(self) -> None:
        """Raise if it was closed, or is a fork's."""

    def report(self) -> Report:
        """What happened so far."""


class Standing:
    """Where an epoch stands. It outlives the iterator, which a loop that is left lets go.

    Attributes:
        place: What is due.
        order: The order of its samples.
    """

    def __init__(self, place: EnginePlace, order: SampleOrder) -> None:
        self.place, self.order = place, order

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, batch) that is due; after the last batch the beginning of the next epoch."""
        if self.place.batch >= len(self.order):
            return self.place.epoch + 1, 0
        return self.place.epoch, self.place.batch


class Epoch(Iterator[tuple[Any, ...]]):
    """The batches of one epoch.

    Args:
        loader: Whose.
        place: Where it begins.
        order: The order of its samples.

    Attributes:
        standing: Where it stands.
    """

    def __init__(self, loader: Iterated, place: EnginePlace, order: SampleOrder) -> None:
        self._loader = loader
        self.standing = Standing(place, order)
        self._first = place.batch
        self._ended = self._busy = False
        loader._ladder.begin(place)

    def __len__(self) -> int:
        return len(self.standing.order) - self._first

    def __next__(self) -> tuple[Any, ...]:
        loader = self._loader
        if self._ended:
            loader._usable()
            raise StopIteration
        if self._busy:
            raise ConcurrentUseError(
                "two threads asked the same iterator for a batch at the same time",
                hint="give each thread its own loader, or guard next() with a lock",
            )
        loader._usable()
        self._busy = True
        loader._state.asks()
        try:
            values = self._next()
        except BaseException as error:
            loader._state.failed(error)
            raise
        finally:
            self._busy = False
        loader._state.got()
        return values

    def _next(self) -> tuple[Any, ...]:
        loader = self._loader
        while True:
            place = self.standing.place
            if place.batch >= len(self.standing.order):
                self._ended = True
                loader._recorder.epoch(place.epoch, len(self.standing.order) - self._first)
                raise StopIteration
            try:
                arrived = loader._ladder.next(place)
            except StopIteration:
                self._ended = True
                raise RuntimeError(f"{loader.name} ended before batch {place.batch}") from None
            except Exception:  # raised at its turn; the next ones still come
                self.standing.place = replace(place, batch=place.batch + 1)
                raise
            self.standing.place = replace(place, batch=place.batch + 1)
            values = self._good(place, arrived)
            if values is not None:
                loader._recorder.batches += 1
                loader._delivered.append(
                    (place.epoch, place.batch, self.standing.order, {bad.sample for bad in arrived.bad})
                )
                return values

    def _good(self, place: EnginePlace, arrived: Arrived) -> tuple[Any, ...] | None:
        """The batch without its corrupt samples; None if nothing is left."""
        if not arrived.bad:
            return arrived.values
        loader, bad = self._loader, arrived.bad
        if loader._settings.on_bad_sample == "raise":
            raise self._bad_sample(place, arrived)
        for one in bad:
            loader._recorder.skipped(place.epoch, place.batch, one.sample, one.why)
        count = len(arrived.values[0])
        keep = torch.ones(count, dtype=torch.bool)
        keep[[one.position for one in bad]] = False
        if not keep.any():
            return None
        return tuple(value[keep if isinstance(value, torch.Tensor) else keep.numpy()] for value in arrived.values)

    def _bad_sample(self, place: EnginePlace, arrived: Arrived) -> BadSampleError:
        loader, bad = self._loader, arrived.bad
        samples = [one.sample for one in bad]
        loader._recorder.fault(
            Fault(
                0.0, "", "bad_sample", epoch=place.epoch, batch=place.batch, indices=samples, detail=bad[0].why,
                action="raised",
            )
        )  # fmt: skip
        error = BadSampleError(
            f"sample {', '.join(map(str, samples[:8]))} of {loader._beton.path} is corrupt: {bad[0].why}",
            indices=samples, cause="corrupt", batch=place.batch, where=f"{loader.name}, epoch {place.epoch}",
            hint='write the file again, or leave such samples out and go on: Policy(on_bad_sample="skip"); '
            f"`safeloader beton --full {loader._beton.path}` lists them all",
        )  # fmt: skip
        error.report = loader.report()
        return error

    def close(self) -> None:
        """End it; what was handed out stays valid."""
        if not self._ended:
            self._ended = True
            if self.standing.place.batch < len(self.standing.order):
                self._loader._state.end_pass("left early")
                self._loader._state.failed(StopIteration())
            self._loader._ladder.stop()

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:
            pass
