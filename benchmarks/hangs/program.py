"""What a scenario's program runs in: it makes the loader by the adapter and notes each batch, the error and the end.

A scenario's file ends with ``if __name__ == "__main__": program(train)``. Without the harness around it, it
is a program that can be run and watched by hand: ``python -m benchmarks.hangs.scenarios.in_a_sample sigkill torch``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import Self

from benchmarks.hangs import adapters, facts
from benchmarks.hangs.data import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

DEADLINE = 6.0
"""Seconds that a loader with a deadline is told to wait for a batch."""


class Run:
    """One run of one program; a context that notes how it ended."""

    def __init__(self) -> None:
        self.quiet = facts.quiet()
        self.adapter = adapters.adapter("torch" if self.quiet else os.environ[facts.LOADER])
        self.delivered = 0
        self.made: list[Any] = []

    def loader(self, dataset: Any, *, deadline: float = DEADLINE, **arguments: Any) -> Iterable[Any]:
        """A loader under test with two spawned workers and batches of 4, unless told otherwise.

        Args:
            dataset: As torch's.
            deadline: Seconds, for loaders that know one.
            **arguments: As torch's. A reference run always uses spawn.
        """
        arguments = {"batch_size": 4, "num_workers": 2, "multiprocessing_context": "spawn", **arguments}
        if self.quiet:
            arguments["multiprocessing_context"] = "spawn"
        loader = self.adapter.make(dataset, deadline=deadline, **arguments)
        self.made.append(loader)
        return loader

    def epoch(
        self,
        loader: Iterable[Any],
        *,
        step: float = 0.0,
        limit: int | None = None,
        keep: list[Any] | None = None,
    ) -> None:
        """Train for an epoch: note each batch, then compute for ``step`` seconds.

        Args:
            loader: What `loader` has made.
            step: Seconds of each training step.
            limit: Leave the epoch early, by ``break``, after so many batches.
            keep: A list that keeps every batch alive.
        """
        for number, batch in enumerate(loader, start=1):
            self.batch(batch)
            if keep is not None:
                keep.append(batch)
            if step:
                time.sleep(step)
            if number == limit:
                break

    def batch(self, batch: Any) -> None:
        """Note a batch that was delivered to the training loop."""
        facts.note("batch", number=self.delivered, digest=digest(batch))
        self.delivered += 1

    def fault(self, name: str = "fault") -> bool:
        """Note that the trainer itself makes trouble now; False in a reference run, where it must not."""
        if not self.quiet:
            facts.note("fault", name=name)
        return not self.quiet

    def resumed(self) -> None:
        """Note that the training script goes on; ends a wait as a batch does."""
        facts.note("resumed")

    def __enter__(self) -> Self:
        (facts.directory() / "trainer").write_text(str(os.getpid()))
        torch.manual_seed(7)
        facts.note("start", loader=self.adapter.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note_report()
        self.made.clear()
        if error is not None and kind is not None:
            name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
            facts.note("error", type=name, message=str(error)[:20_000])

    def _note_report(self) -> None:
        """Keep what the loaders say about themselves, where they have a `report`."""
        for loader in self.made:
            if hasattr(loader, "report"):
                facts.note("report", text=str(loader.report())[:20_000])


def program(train: Callable[[Run], None]) -> None:
    """Run a scenario's ``train`` as the program it is; an error goes on to the interpreter, as in any script."""
    by_hand = facts.DIRECTORY not in os.environ
    if by_hand:
        os.environ[facts.DIRECTORY] = tempfile.mkdtemp(prefix="hangs-")
        os.environ[facts.LOADER] = sys.argv[2] if len(sys.argv) > 2 else "torch"
    with Run() as run:
        train(run)
    # What the training function held is gone now; a loader that cannot let go stands still before this line.
    facts.note("end")
    if by_hand:
        print(facts.path_in(Path(os.environ[facts.DIRECTORY])).read_text())
