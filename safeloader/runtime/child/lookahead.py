"""A dataset that works ahead may write into the leases of the tasks that wait behind the one in work.

So what it makes in advance need not be copied. Only in a process that serves one loader; elsewhere no task is shown.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

__all__ = ["WaitingTask", "showing", "waiting"]


class WaitingTask(NamedTuple):
    """A task that this process has been sent and has not begun.

    Attributes:
        indices: What will be asked of the dataset.
        reserve: Given sizes in bytes, flat tensors of bytes in the task's lease. To be called once at most.
    """

    indices: Any
    reserve: Callable[[list[int]], list[torch.Tensor]]


_source: Callable[[Callable[[], None]], list[WaitingTask]] | None = None


@contextmanager
def showing(source: Callable[[Callable[[], None]], list[WaitingTask]]) -> Iterator[None]:
    """Within this context ``waiting`` asks ``source``."""
    global _source  # noqa: PLW0603 - one per process, as its channel is
    before, _source = _source, source
    try:
        yield
    finally:
        _source = before


def waiting(recall: Callable[[], None]) -> list[WaitingTask]:
    """The tasks that wait, in order, as far as nothing was reserved for them; called by a dataset within a task.

    Args:
        recall: Called if such a task will not be done after all. When it returns, nothing writes into any lease that
            was reserved.
    """
    return _source(recall) if _source is not None else []
