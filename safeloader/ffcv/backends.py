"""The ways to make batches, from the fastest to the safest, behind one face.

::

    trainer, N workers ─▶ process, N ─▶ process, N/2 ─▶ ... ─▶ process, 1 ─▶ plain DataLoader
         (safe iterator)      └── one supervised process, DataLoader's own ──┘   (no FFCV at all)

A way is begun at a place and gives the batches from there to the end of the epoch. When it can go on no longer it says
`FellOver`, and the loader begins the next way at the batch that is due.
"""

from __future__ import annotations

import os
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safeloader.core.policy import Deadlines, ladder
from safeloader.errors import PipelineError
from safeloader.ffcv.batches import Batches, Failed, ThreadHung
from safeloader.observe.events import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.config import Settings
    from safeloader.ffcv.engine import Engine
    from safeloader.ffcv.recipe import EnginePlace, Recipe
    from safeloader.observe import Recorder

__all__ = ["Arrived", "BadHere", "FellOver", "Step", "TrainerWay", "Backend", "steps"]


class BadHere(NamedTuple):
    """A corrupt sample of a batch."""

    position: int
    sample: int
    why: str


class Arrived(NamedTuple):
    """A batch, which of its samples are corrupt, and what making it changed in operations that live elsewhere."""

    values: tuple[Any, ...]
    bad: tuple[BadHere, ...]
    changes: bytes | None = None


class FellOver(Exception):
    """This way can go on no longer.

    Args:
        why: In words.
        error: What to raise if there is no other way.
    """

    def __init__(self, why: str, error: Exception) -> None:
        super().__init__(why)
        self.why, self.error = why, error


class Backend(Protocol):
    """One way to make batches."""

    def begin(self, place: EnginePlace) -> None:
        """Make the batches from here to the end of the epoch."""

    def next(self) -> Arrived:
        """The next batch; StopIteration, FellOver, or what making it raised."""

    def stop(self) -> None:
        """Nobody wants the rest of the epoch."""

    def close(self) -> None:
        """For good."""


class Step(NamedTuple):
    """One rung: which way, with how many of FFCV's workers."""

    kind: str
    workers: int

    def __str__(self) -> str:
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        return {
            "trainer": f"FFCV in the trainer with {workers}",
            "process": f"FFCV in a process with {workers}",
            "plain": f"a plain DataLoader with {workers}",
            "bare": f"bare FFCV with {workers}",
        }[self.kind]


def steps(mode: str, workers: int, fallback: str, *, on_cpu: bool) -> tuple[Step, ...]:
    """The ways to go down, best first.

    Args:
        mode: ``"trainer"``, ``"process"`` or ``"auto"``.
        workers: FFCV's workers.
        fallback: How far: ``"inline"`` (all), ``"process"`` (as long as it is FFCV), ``"off"``.
        on_cpu: False if the pipelines need the trainer's accelerator: then no process can run them.
    """
    kind = ("process" if on_cpu else "trainer") if mode == "auto" else mode
    if fallback == "off":
        return (Step(kind, workers),)
    if not on_cpu:
        return tuple(Step("trainer", count) for count in ladder(workers, "process"))
    down = [Step("process", count) for count in ladder(workers, "process")]
    first = [Step("trainer", workers)] if kind == "trainer" else []
    return (*first, *down, *([Step("plain", workers)] if fallback == "inline" else []))


class TrainerWay:
    """FFCV in this process, behind the safe iterator.

    Args:
        recipe: What to run.
        settings: Deadlines.
        recorder: Where faults are told.
    """

    def __init__(self, recipe: Recipe, settings: Settings, recorder: Recorder) -> None:
        self._recipe = recipe
        self._recorder = recorder
        self._deadlines = Deadlines(settings.batch_timeout, settings.startup_timeout)
        self._engine: Engine | None = None
        self._batches: Batches | None = None
        self._place: EnginePlace | None = None
        self._first = True

    def begin(self, place: EnginePlace) -> None:
        """As `Way`."""
        from safeloader.ffcv.engine import Engine

        self._place = place
        if self._engine is None:
            self._engine = Engine(self._recipe, place.size)
            self._first = True
        self._batches = self._engine.begin(place)

    def next(self) -> Arrived:
        """As `Way`."""
        assert self._place is not None
        if self._batches is None:  # the batch before raised: go on behind it
            if self._place.batch >= len(self._recipe.order):
                raise StopIteration
            self.begin(self._place)
        assert self._batches is not None
        asked = monotonic()
        try:
            made = self._batches.next(self._deadlines.startup(0) if self._first else self._deadlines.batch(0))
        except Failed as failed:
            self._batches = None
            raise self._raised(failed)  # noqa: B904 - it has its own cause
        except ThreadHung as hung:
            raise self._hung(hung) from None
        except StopIteration:
            if self._place.batch < len(self._recipe.order):
                raise RuntimeError(f"the epoch ended at batch {self._place.batch}") from None
            raise
        if not self._first and self._deadlines.learns:
            self._deadlines.observe(monotonic() - asked, first=False)
        self._first = False
        self._place = replace(self._place, batch=self._place.batch + 1)
        bad = tuple(BadHere(b.position, int(made.samples[b.position]), b.why) for b in made.bad)
        return Arrived(made.values, bad)

    def _raised(self, failed: Any) -> BaseException:
        error = reason(failed)
        self._fault("raised", failed.samples, f"{type(error).__name__}: {error}", "raised")
        assert self._place is not None
        self._place = replace(self._place, batch=self._place.batch + 1)
        if isinstance(error, MemoryError):
            self._place = replace(self._place, batch=self._place.batch - 1)
            return FellOver("memory is short", error)
        return error

    def _hung(self, hung: Any) -> FellOver:
        from safeloader.errors import BatchTimeoutError

        self._engine = self._batches = None  # its thread cannot be ended: leave it behind, with its memory
        self._fault("hung", hung.samples, "", "abandoned", stack=hung.stack, stalled=hung.seconds)
        assert self._place is not None
        error = BatchTimeoutError(
            f"FFCV made no batch for {hung.seconds:.1f} s",
            where=f"{self._recorder.name}, epoch {self._place.epoch}, batch {self._place.batch}",
            hint="if it is only slow, raise Policy(batch_timeout=...), or startup_timeout for the first batch; "
            "Policy(ffcv_mode='process') can kill a hung pipeline, this process cannot\nwhere FFCV's thread stands:\n"
            + hung.stack,
        )
        error.report = self._recorder.report()
        return FellOver("its thread hung", error)

    def _fault(self, cause: str, samples: Any, detail: str, action: str, **more: Any) -> None:
        assert self._place is not None
        indices = None if samples is None else [int(sample) for sample in samples]
        self._recorder.fault(
            Fault(
                0.0, "", cause, process=os.getpid(), epoch=self._place.epoch, batch=self._place.batch,
                indices=indices, detail=detail, action=action, **more,
            )
        )  # fmt: skip

    def stop(self) -> None:
        """As `Way`."""
        self._batches = None
        if self._engine is not None:
            self._engine.stop()

    def close(self) -> None:
        """As `Way`."""
        self.stop()
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def reason(failed: Any) -> BaseException:
    """What to raise for a batch that could not be made: the operation's own error, numba's in clear words."""
    from numba.core.errors import NumbaError

    cause: BaseException = failed.__cause__
    if isinstance(cause, NumbaError):
        text = str(cause).strip()
        first = text.splitlines()[0] if text else type(cause).__name__
        error = PipelineError(
            f"an operation of the pipeline cannot be compiled: {first}",
            hint=f"numba says:\n{text[-4000:]}",
        )
        error.__cause__ = cause
        return error
    return cause


def places(place: EnginePlace, count: int) -> Iterator[EnginePlace]:
    """From a place to the end of its epoch."""
    for batch in range(place.batch, count):
        yield replace(place, batch=batch)
