"""Progressive resize: small images first, a schedule as data. Pure: the size is a function of the epoch.

So ranks agree without talking, and a run that is resumed in the middle starts at the right size.
"""

from __future__ import annotations

from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any

from safeloader.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ProgressiveResize", "SharedSize"]


class ProgressiveResize:
    """Which image size each epoch has.

    ::

        ProgressiveResize([(0, 128), (6, 160), (12, 192)])      # from epoch 6 on: 160
        ProgressiveResize.ramp(160, 192, start=65, end=76)       # as ffcv-imagenet's rn50 with 88 epochs
        ProgressiveResize(lambda epoch: 128 if epoch < 6 else 192)

    The learning rate is not touched: ffcv-imagenet's depends on the epoch alone, and so should yours, unless the batch
    size changes with the size (then scale it linearly with the batch size).

    Args:
        schedule: ``(first epoch, size in pixels)`` pairs that begin with epoch 0, or a function of the epoch. A
            function must give the same size whenever and wherever it is asked.

    Raises:
        SettingsError: The schedule does not begin at epoch 0, is out of order, or has a size that is no positive
            whole number.
    """

    def __init__(self, schedule: Sequence[tuple[int, int]] | Callable[[int], int]) -> None:
        self._function: Callable[[int], int] | None = None
        self._steps: tuple[tuple[int, int], ...] = ()
        if callable(schedule):
            self._function = schedule
            self.size_at(0)
        else:
            self._steps = _checked(schedule)

    @classmethod
    def ramp(cls, first: int, last: int, *, start: int, end: int, multiple: int = 32) -> ProgressiveResize:
        """A straight line from one size to another, rounded to a multiple (``get_resolution`` of ffcv-imagenet).

        Args:
            first: Size in pixels up to and with epoch `start`.
            last: Size in pixels from epoch `end` on.
            start: Last epoch at the first size.
            end: First epoch at the last size; the same epoch as `start`: the one after it.
            multiple: Sizes in between are rounded to a multiple of so many pixels.

        Raises:
            SettingsError: A size is not positive, or the ramp ends before it starts.
        """
        for size in (first, last, multiple):
            _positive(size, "ramp")
        if not 0 <= start <= end:
            raise SettingsError(
                f"a ramp from epoch {start} to epoch {end} goes nowhere",
                where="ProgressiveResize.ramp",
                hint="start >= 0 and end >= start",
            )
        steps = [(0, first)]
        if start == end and last != first:
            return cls([*steps, (end + 1, last)])
        for epoch in range(start + 1, end + 1):
            exact = first + (last - first) * (epoch - start) / (end - start)
            size = last if epoch == end else max(multiple, round(exact / multiple) * multiple)
            if size != steps[-1][1]:
                steps.append((epoch, size))
        return cls(steps)

    def size_at(self, epoch: int) -> int:
        """The size of this epoch in pixels.

        Raises:
            SettingsError: The epoch is negative, or the function gives no positive whole number.
        """
        if epoch < 0:
            raise SettingsError(f"there is no epoch {epoch}", where="ProgressiveResize")
        if self._function is not None:
            return _positive(self._function(epoch), f"epoch {epoch}")
        return next(size for first, size in reversed(self._steps) if first <= epoch)

    def over(self, dataset: Any) -> Any:
        """A dataset whose ``set_size(size)`` is called in every process by ``safeloader.DataLoader.set_epoch(epoch)``.

        ::

            loader = DataLoader(schedule.over(dataset), num_workers=8, persistent_workers=True)
            for epoch in range(16):
                loader.set_epoch(epoch)

        Raises:
            SettingsError: The dataset has no ``set_size``.
        """
        return ResizedLoader(dataset, self)

    def apply(self, dataset: Any, epoch: int) -> int:
        """Tell a dataset its size of an epoch by ``dataset.set_size(size)``; call it before the epoch begins.

        Copies in living workers do not hear of it, unless the size lies in a `SharedSize`; `over` reaches them.

        Returns:
            The size.

        Raises:
            SettingsError: The dataset has no ``set_size``.
        """
        size = self.size_at(epoch)
        _set_size_of(dataset)(size)
        return size

    def __repr__(self) -> str:
        return f"ProgressiveResize({self._function if self._function is not None else list(self._steps)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProgressiveResize):
            return NotImplemented
        return (self._steps, self._function) == (other._steps, other._function)

    def __hash__(self) -> int:
        return hash((self._steps, self._function))


class ResizedLoader:
    """A dataset that has the size of its epoch, whichever process it lives in. Anything else is as the dataset has it.

    Args:
        dataset: With ``set_size(size)`` and ``[index]``.
        schedule: Which size each epoch has; it begins with epoch 0.

    Raises:
        SettingsError: The dataset has no ``set_size``.
    """

    def __init__(self, dataset: Any, schedule: ProgressiveResize) -> None:
        self.dataset, self.schedule = dataset, schedule
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the size of this epoch; called in the trainer and in each worker."""
        from safeloader.runtime.child.sample_rng import tell_epoch

        _set_size_of(self.dataset)(self.schedule.size_at(epoch))
        tell_epoch(self.dataset, epoch)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _set_size_of(dataset: Any) -> Callable[[int], object]:
    set_size: Callable[[int], object] | None = getattr(dataset, "set_size", None)
    if not callable(set_size):
        raise SettingsError(
            f"{type(dataset).__name__} has no set_size(size), so its images cannot be resized",
            where="ProgressiveResize",
            hint="give it one that sets the size of the samples that come next",
        )
    return set_size


class SharedSize:
    """A number that a dataset and its copies in living worker processes share. Set it between epochs only.

    Args:
        size: Size to begin with, in pixels.
    """

    def __init__(self, size: int) -> None:
        import torch

        self._cell = torch.tensor([_positive(size, "SharedSize")])
        self._cell.share_memory_()  # type: ignore[no-untyped-call]

    def get(self) -> int:
        """The size in pixels."""
        return int(self._cell.item())

    def set(self, size: int) -> None:
        """Change it, for all copies.

        Args:
            size: The new size, in pixels.

        Raises:
            SettingsError: It is no positive whole number.
        """
        self._cell[0] = _positive(size, "SharedSize")


def whole(value: Any) -> int | None:
    """A whole number of any library as int; None for anything else, booleans too."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value)


def _checked(schedule: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    steps = []
    for step in schedule:
        try:
            epoch, size = step
        except (TypeError, ValueError):
            raise _refused(f"{step!r} is no pair (first epoch, size)") from None
        if whole(epoch) is None:
            raise _refused(f"epoch {epoch!r} is no whole number")
        steps.append((int(epoch), _positive(size, f"epoch {epoch}")))
    if not steps or steps[0][0] != 0:
        raise _refused("it must begin with epoch 0")
    if any(later <= earlier for (earlier, _), (later, _) in pairwise(steps)):
        raise _refused(f"its epochs {[epoch for epoch, _ in steps]} must rise")
    return tuple(steps)


def _positive(size: object, where: str) -> int:
    number = whole(size)
    if number is None or number < 1:
        raise SettingsError(
            f"{size!r} is not accepted as an image size: it must be a positive whole number of pixels",
            where=where,
            hint="sizes are whole pixels, such as 160",
        )
    return number


def _refused(why: str) -> SettingsError:
    return SettingsError(
        f"this schedule is not accepted: {why}",
        where="ProgressiveResize",
        hint="ProgressiveResize([(0, 128), (6, 160), (12, 192)])",
    )
