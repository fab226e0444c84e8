"""FFCV in one supervised process: a DataLoader with one worker whose "samples" are FFCV's batches.

So a SIGBUS, an abort, a hang or a kill costs a replacement, and the new process begins at the batch that is due: the
sampler's items say which that is. Batches come through the arena; all that supervises them is DataLoader's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from safeloader.config import Policy
from safeloader.errors import SafeLoaderError
from safeloader.ffcv.backends import Arrived, BadHere, FellOver, places, reason
from safeloader.ffcv.batches import Batches, Failed
from safeloader.ffcv.engine import Engine
from safeloader.ffcv.operations import Attributes, Factory
from safeloader.ffcv.pipelines import operations_of
from safeloader.ffcv.recipe import EnginePlace, Recipe
from safeloader.ffcv.require import require
from safeloader.loader import DataLoader
from safeloader.loader_state import speak_through
from safeloader.runtime.child import lookahead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.config import Settings
    from safeloader.observe import Recorder
    from safeloader.observe.events import Fault

__all__ = ["HostedWay"]

_MOST = 1 << 20  # bytes of changed attributes; more are not sent with each task, but once to a new process


class _Mended:
    """Read in another process, it imports FFCV there with its patches: before any object of FFCV's own is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return require, ()


class HostedBatches:
    """The dataset in the process: ``[place]`` is the batch of that place. In order, it costs nothing to ask.

    Args:
        recipe: What to run.
        first: Where the trainer begins.
    """

    def __init__(self, recipe: Recipe, first: EnginePlace) -> None:
        self._ffcv = _Mended()  # comes first
        self._recipe = recipe
        self._first = first
        self._engine: Engine | None = None
        self._attributes: Attributes | None = None
        self._batches: Batches | None = None
        self._due: EnginePlace | None = None
        self._changes: bytes | None = None  # that running made up to the batch handed out last
        self._resumed: bytes | None = None

    def open(self) -> None:
        """Make and compile everything, while the deadline for the start counts."""
        self._attributes = Attributes(operations_of(self._recipe.pipelines))
        self._engine = Engine(self._recipe, self._first.size)
        self._attributes.settle()
        self._engine.warm_up()
        if self._attributes.may_change:
            self._engine.told = self._attributes.since_start

    def __getitem__(self, place: EnginePlace) -> tuple[tuple[Any, ...], tuple[BadHere, ...], bytes | None]:
        assert self._engine is not None
        if self._batches is None or place != self._due:
            self._recall()
            if place != self._due:
                self._become(place)
            self._batches = self._engine.begin(place)
        self._lend()
        self._due = replace(place, batch=place.batch + 1)
        try:
            made = self._batches.next(None)
        except Failed as failed:
            self._batches = None
            raise reason(failed)  # noqa: B904 - it has its own cause
        self._changes = made.changes or self._changes
        bad = tuple(BadHere(b.position, int(made.samples[b.position]), b.why) for b in made.bad)
        return made.values, bad, made.changes

    def _lend(self) -> None:
        """Have the batches that come next made where they are to lie."""
        assert self._batches is not None
        for task in lookahead.waiting(self._recall):
            self._batches.lend(task.indices, task.reserve)

    def _become(self, place: EnginePlace) -> None:
        """Have the operations as the trainer has them at the beginning of what it asks for."""
        assert self._attributes is not None and self._engine is not None
        changed = self._attributes.become(place.changes)
        if self._due is not None:
            self._attributes.start()
        self._changes, resumed, self._resumed = None, self._resumed, None
        if resumed is not None:
            self._attributes.hear(resumed)
            self._changes = resumed
        if changed and isinstance(self._recipe.pipelines, Factory):
            self._engine.compile(place.size)

    def _recall(self) -> None:
        """Nothing is written any more. However long that takes: this process is watched."""
        if self._batches is not None:
            self._batches.close()
            self._batches.join()
            self._batches = None


class ChangingBatches(HostedBatches):
    """Operations that change as they run: their state is kept by the trainer, for the process that comes next."""

    def _lend(self) -> None:
        """While tasks are done again after a loss there is none to make batches for."""

    def state_dict(self) -> dict[str, Any]:
        """What running changed, up to the batch handed out last."""
        return {"changes": self._changes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._resumed = state["changes"]


def open_dataset(_: int) -> None:
    """Called in the process once it is there."""
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    assert info is not None
    cast("HostedBatches", info.dataset).open()


class HostedPlan:
    """The sampler: places, from one to the end of its epoch."""

    def __init__(self, count: int) -> None:
        self.place = EnginePlace(0, 0, None)
        self._count = count

    def __iter__(self) -> Iterator[EnginePlace]:
        return places(self.place, self._count)

    def __len__(self) -> int:
        return self._count - self.place.batch


class HostedFacts:
    """The loader's recorder, told of batches by their places.

    Args:
        recorder: It.
        plan: Where the epoch began.
        recipe: Which samples a batch has.

    Attributes:
        due: The batch that the trainer gets next; a process that dies between two batches works ahead, for this one.
            The number of batches when nobody waits for any.
    """

    def __init__(self, recorder: Recorder, plan: HostedPlan, recipe: Recipe) -> None:
        self._recorder, self._plan, self._recipe = recorder, plan, recipe
        self._beton: Any = None
        self.batches = 0
        self.due = len(recipe.order)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recorder, name)

    def fault(self, fault: Fault) -> int:
        """A fault, with the batch's true number and samples."""
        batch = self.due if fault.batch is None else fault.batch + self._plan.place.batch
        if batch < len(self._recipe.order):
            fault = replace(fault, batch=batch, indices=self._samples(batch), sample=None)
        return self._recorder.fault(replace(fault, epoch=self._plan.place.epoch))

    def _samples(self, batch: int) -> list[int] | None:
        from safeloader.ffcv.beton import Beton

        try:
            self._beton = self._beton or Beton(self._recipe.path, self._recipe.custom_fields)
            order = self._recipe.order
            samples = order.samples(self._plan.place.epoch, self._beton)
        except Exception:  # the file may be gone; that is told elsewhere
            return None
        return [int(sample) for sample in samples[batch * order.batch_size : (batch + 1) * order.batch_size]]

    def epoch(self, n: int, batches: int) -> None:
        """The loader tells that itself."""

    def closed(self) -> None:
        """So it does that."""


class HostedWay:
    """As `Way`: FFCV in a process of its own.

    Args:
        recipe: What to run.
        settings: What the inner DataLoader obeys.
        recorder: Where faults are told.
    """

    def __init__(self, recipe: Recipe, settings: Settings, recorder: Recorder) -> None:
        self._recipe = recipe
        self._policy = inner_policy(settings, fallback="off")
        self._recorder = recorder
        self._plan = HostedPlan(len(recipe.order))
        self._told = HostedFacts(recorder, self._plan, recipe)
        self._loader: DataLoader[Any] | None = None
        self._attributes: Attributes | None = None
        self._iterator: Any = None

    def begin(self, place: EnginePlace) -> None:
        """As `Way`."""
        if self._loader is None or self._attributes is None:
            self._loader = self._make(place)
        assert self._attributes is not None
        changes = self._attributes.changes()
        if changes is not None and len(changes) > _MOST:
            self.close()
            self._loader, changes = self._make(place), None
        self._attributes.start()
        self._plan.place = replace(place, changes=changes)
        self._told.due = place.batch
        self._iterator = iter(self._loader) if place.batch < len(self._recipe.order) else iter(())

    def _make(self, place: EnginePlace) -> DataLoader[Any]:
        self._attributes = Attributes(operations_of(self._recipe.pipelines))
        batches = ChangingBatches if self._attributes.may_change else HostedBatches
        loader: DataLoader[Any] = DataLoader(
            batches(self._recipe, place),  # type: ignore[arg-type]
            batch_size=None, sampler=self._plan, num_workers=1, multiprocessing_context="spawn",
            worker_init_fn=open_dataset, persistent_workers=True, prefetch_factor=3,
            policy=self._policy, name=self._recorder.name,
        )  # fmt: skip
        speak_through(loader, self._told)
        return loader

    def next(self) -> Arrived:
        """As `Way`."""
        try:
            arrived = fetched(self._iterator)
        finally:
            self._told.due += 1
        if arrived.changes is not None and self._attributes is not None:
            self._attributes.hear(arrived.changes)
        return arrived

    def stop(self) -> None:
        """As `Way`. The process goes on with what it was sent, and is used again."""
        self._iterator = None
        self._told.due = len(self._recipe.order)

    def close(self) -> None:
        """As `Way`."""
        self._iterator = None
        if self._loader is not None:
            self._loader.close()
            self._loader = None


def fetched(iterator: Any) -> Arrived:
    """The next batch of an inner DataLoader; its giving up is this way's falling over."""
    try:
        values, bad, changes = next(iterator)
    except SafeLoaderError as error:
        if error.report is None:  # raised by the dataset
            raise
        raise FellOver(error.what.splitlines()[0], error) from error
    return Arrived(tuple(values), tuple(BadHere(*one) for one in bad), changes)


def inner_policy(settings: Settings, fallback: Any) -> Policy:
    """The same settings for a DataLoader inside."""
    return Policy(
        batch_timeout=settings.batch_timeout,
        startup_timeout=settings.startup_timeout,
        max_restarts=settings.max_restarts,
        restart_period=settings.restart_period,
        fallback=fallback,
        on_bad_sample="raise",
        bad_sample_attempts=settings.bad_sample_attempts,
        start_method=settings.start_method,
        hosts="local",
        accelerators=settings.accelerators,
        strict=settings.strict,
    )
