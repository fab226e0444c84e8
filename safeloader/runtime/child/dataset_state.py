"""Datasets that can tell their own state, by duck typing: torchdata's protocol, ``state_dict`` and ``load_state_dict``
on the dataset, or on the iterator that it makes.

Saying it can cost much (ten megabytes of shuffle buffer), so a worker asks seldom: what happened since is done again by
whoever goes on from there.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from safeloader.runtime.user_code import package_of

__all__ = ["SnapshotPace", "is_exact", "is_stateful", "load", "told"]


def is_stateful(thing: Any) -> bool:
    """True if it can tell its state, and take one."""
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def is_exact(dataset: Any) -> bool:
    """True for datasets whose states are known to leave nothing out: torchdata's nodes, which are tested for that."""
    return package_of(type(dataset)) == "torchdata"


def told(dataset: Any, iterator: Any) -> dict[str, Any] | None:
    """What dataset and iterator say of themselves; None if neither can. One that is its own iterator is asked once.

    What goes wrong is told under ``error``: asking must not disturb the loading.
    """
    said: dict[str, Any] = {}
    try:
        if iterator is not None and is_stateful(iterator):
            said["iterator"] = iterator.state_dict()
        if iterator is not dataset and is_stateful(dataset):
            said["dataset"] = dataset.state_dict()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return said or None


def load(said: dict[str, Any], dataset: Any, make_iterator: Any) -> Any:
    """Put a state back, in torchdata's order: the dataset's, a new iterator, then that one's. Returns the iterator."""
    if "dataset" in said:
        dataset.load_state_dict(said["dataset"])
    iterator = make_iterator(dataset)
    if "iterator" in said:
        iterator.load_state_dict(said["iterator"])
    return iterator


class SnapshotPace:
    """When a worker asks its dataset for its state.

    So seldom that it costs at most ``SHARE`` of the worker's time, and then at most every ``LEAST`` seconds; or every
    so many tasks, where that was asked for.

    Args:
        every: tasks from one mark to the next; None leaves it to the cost.
    """

    SHARE = 0.005
    LEAST = 0.05

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._tasks = 0
        self._next = 0.0
        self._began = 0.0

    def due(self) -> bool:
        """Count a task. True if its end is to be marked."""
        self._tasks += 1
        self._began = monotonic()
        return self._tasks >= self._every if self._every is not None else self._began >= self._next

    def done(self) -> None:
        """It was marked."""
        now = monotonic()
        self._tasks = 0
        self._next = now + max((now - self._began) / self.SHARE, self.LEAST)
