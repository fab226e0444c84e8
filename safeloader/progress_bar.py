"""Progress bars and phases: what the program is doing, how fast, and how much of it is waiting for data.

Works with any loader: it measures around ``next()``.
"""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from safeloader.dist_env import group
from safeloader.lengths import length_of
from safeloader.observe.format import duration, many, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TextIO

__all__ = ["Phase", "ProgressBar", "progress"]

T = TypeVar("T")


def progress(
    loader: Iterable[T], phase: str | None = None, *, epoch: int | None = None, total_epochs: int | None = None,
    file: TextIO | None = None, every: float = 60.0,
) -> ProgressBar[T]:  # fmt: skip
    """Iterate over a loader with a progress bar, and a line when the phase begins and when it ends.

    On ranks other than 0 nothing is shown. Where the output is no terminal (and no notebook), lines now and then
    stand in for the bar.

    Args:
        loader: anything that gives batches.
        phase: what is done, for example ``"train"``; the loader's ``name`` by default.
        epoch: the number of this epoch, shown as it is given; the log and the report count epochs from 0.
        total_epochs: how many there will be; None: not shown.
        file: where to write; standard error by default.
        every: seconds between the lines that stand in for the bar.

    Returns:
        The batches, as an iterable with the loader's length.
    """
    return ProgressBar(loader, phase or getattr(loader, "name", None) or "batches", epoch, total_epochs, file, every)


class ProgressBar(Generic[T]):
    """What ``progress`` returns: the loader's batches, shown."""

    def __init__(
        self, loader: Iterable[T], phase: str, epoch: int | None, total_epochs: int | None, file: TextIO | None,
        every: float,
    ) -> None:  # fmt: skip
        self._loader = loader
        self._every = every
        self._title = printable(phase) + _of(epoch, total_epochs)
        self._file = file
        self._shown: Phase | None = None

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def set_postfix(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Show values, such as the components of a loss: in the bar and in the lines that stand in for it.

        At the end of the phase each has a line of its own: the last value, and the mean of all. Tensors are read
        when they are shown, now and then, so that no step waits for an accelerator.

        Args:
            values: By name: numbers, tensors and arrays of one number, text.
            **more: The same, as keywords.
        """
        if self._shown is not None:
            self._shown.note({**(values or {}), **more})

    def __iter__(self) -> Iterator[T]:
        self._shown = shown = Phase(self._title, length_of(self._loader), self._file, self._every)
        try:
            batches = self._batches()
            while True:
                shown.asks()
                try:
                    batch = next(batches)
                except StopIteration:
                    break
                shown.got()
                yield batch
        except GeneratorExit:
            shown.end("left early")
            raise
        except BaseException as error:
            shown.end(f"ended by {type(error).__name__}")
            raise
        shown.end()

    def _batches(self) -> Iterator[T]:
        """The loader's iterator, which does not show itself as well under SAFELOADER_PROGRESS."""
        state = getattr(self._loader, "_safe", None)
        if state is None:
            return iter(self._loader)
        state.shown_by_hand = True
        try:
            return iter(self._loader)
        finally:
            state.shown_by_hand = False


class Phase:
    """One pass over a loader, shown.

    Args:
        title: ``"train, epoch 1 of 50"``.
        total: number of batches; None if unknown.
        file: where to write; standard error by default.
        every: seconds between the lines that stand in for the bar.
    """

    def __init__(self, title: str, total: int | None, file: TextIO | None = None, every: float = 60.0) -> None:
        self.title = title
        self._every = every
        self._total = total
        self._file = file or sys.stderr
        self._quiet = _rank() != 0
        self._begun = self._line_at = self._asked_at = monotonic()
        self._batches = 0
        self._waited = 0.0
        self._values: dict[str, _Value] = {}
        self._drawn_at = 0.0
        self._bar = self._make_bar()
        self._say(f"{title} begins" + ("" if total is None else f": {many(total, 'batch')}"))

    def _make_bar(self) -> Any:
        if self._quiet or not (self._file.isatty() or "ipykernel" in sys.modules):
            return None
        from tqdm.auto import tqdm

        return tqdm(total=self._total, desc=self.title, unit=" batches", file=self._file, leave=False)

    def _say(self, line: str) -> None:
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(line, file=self._file)
        else:
            self._file.write(line + "\n")
            self._file.flush()

    def note(self, values: Mapping[str, Any]) -> None:
        """Values to show beside the count."""
        if not self._quiet:
            for name, value in values.items():
                self._values.setdefault(name, _Value(name)).add(value)

    def asks(self) -> None:
        """A batch is asked for."""
        self._asked_at = monotonic()

    def got(self) -> None:
        """It is there."""
        now = monotonic()
        self._waited += now - self._asked_at
        self._batches += 1
        if self._bar is not None:
            self._show(now)
            self._bar.update()
        elif now - self._line_at >= self._every:
            self._line_at = now
            self._say(self._so_far(now))

    def _show(self, now: float) -> None:
        """The bar's text: made as often as the bar is drawn."""
        if now - self._drawn_at >= self._bar.mininterval:
            self._drawn_at = now
            told = [f"waited for data {self._share(now):.0%}", *map(str, self._values.values())]
            self._bar.set_postfix_str(", ".join(told), refresh=False)

    def end(self, how: str = "") -> None:
        """The phase is over. ``how`` says how, if it did not come to its end."""
        now = monotonic()
        if self._bar is not None:
            self._bar.close()
        seconds = now - self._begun
        rate = self._batches / seconds if seconds else 0.0
        self._say(
            f"{self.title}{' ' + how + ' after' if how else ':'} {self._count(bool(how))} in {duration(seconds)}, "
            f"{rate:.3g} a second, {self._share(now):.0%} of the time waiting for data"
        )
        for value in self._values.values():
            self._say(f"{self.title}: {value}{value.mean()}")

    def _so_far(self, now: float) -> str:
        each = (now - self._begun) / self._batches
        return (
            f"{self.title}: {self._count(True)}, {each:.3g} s a batch, of which the loader "
            f"{self._waited / self._batches:.3g} s" + "".join(f"; {value}" for value in self._values.values())
        )

    def _count(self, of_total: bool) -> str:
        if of_total and self._total is not None:
            return f"{self._batches:,} of {many(self._total, 'batch')}"
        return many(self._batches, "batch")

    def _share(self, now: float) -> float:
        return self._waited / (now - self._begun) if now > self._begun else 0.0


class _Value:
    """What a program shows under one name: the last, and the sum of all."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: Any = None
        self._sum: Any = 0.0
        self._count = 0

    def add(self, value: Any) -> None:
        """Nothing is read: a tensor is added where it lies."""
        self._last = value = value.detach() if hasattr(value, "detach") else value
        if not isinstance(value, str):
            self._sum = self._sum + value
            self._count += 1

    def __str__(self) -> str:
        return f"{self._name} {_number(self._last)}"

    def mean(self) -> str:
        """In words; "" of what has none."""
        return f" (mean {_number(_item(self._sum) / self._count)})" if self._count > 1 else ""


def _item(value: Any) -> Any:
    return value.item() if callable(getattr(value, "item", None)) else value


def _number(value: Any) -> str:
    value = _item(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _of(epoch: int | None, total: int | None) -> str:
    if epoch is None:
        return ""
    return f", epoch {epoch}" + ("" if total is None else f" of {total}")


def _rank() -> int:
    """This process's rank: torch.distributed's, else the launcher's."""
    here = group()
    if here is not None:
        return here[0]
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdigit() else 0
