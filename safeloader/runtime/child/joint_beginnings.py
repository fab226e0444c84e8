"""Datasets whose workers begin an epoch together: mosaicml-streaming's ``StreamingDataset``.

Its workers share out an epoch in shared memory, behind barriers that all of them must reach. A worker that is made
again in mid-epoch would wait there for ever, as the others have gone on. So each worker notes in a small file that it
has come through; where it begins the same epoch once more, it works out its share alone, which gives the same.

What is not covered: a process that is lost at the barrier itself, before its worker has come through.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["attend", "enter", "is_joint", "leave"]

_HOME, _CLASS = "streaming.base.dataset", "StreamingDataset"
_attended: set[type] = set()
_now: str | None = None  # the iterator and the epoch of the worker that is active


def is_joint(dataset: Any) -> bool:
    """Whether this, or what it holds, begins its epochs together in all workers; a program holds no such dataset where
    nobody has imported its class."""
    kind = _kind()
    return kind is not None and any(
        isinstance(one, kind) for one in (dataset, *getattr(dataset, "__dict__", {}).values())
    )


def enter(token: str, epoch: int) -> None:
    """This worker is active, and in this epoch of this iterator."""
    global _now  # noqa: PLW0603 - one worker of a process is active
    _now = f"{token} {epoch}"


def leave() -> None:
    """No worker is active."""
    global _now  # noqa: PLW0603
    _now = None


def attend() -> None:
    """Let the class, where it is imported, ask here before it waits for others. Unknown versions stay as they are."""
    kind = _kind()
    if kind is None or kind in _attended:
        return
    _attended.add(kind)
    with contextlib.suppress(AttributeError):
        resumes, shares = kind._resume_incr_epoch, kind._get_work
        kind._resume_incr_epoch = functools.wraps(resumes)(lambda dataset: _resume(resumes, dataset))
        kind._get_work = functools.wraps(shares)(lambda dataset, *begins_at: _share(shares, dataset, *begins_at))


def _kind() -> Any:
    """The class; a program has no such dataset where nobody has imported it."""
    return getattr(sys.modules.get(_HOME), _CLASS, None)


def _resume(original: Callable[..., Any], dataset: Any) -> Any:
    """Which epoch this is, and from which sample on; the dataset's counter is one ahead already."""
    if not _came_through(dataset):
        return original(dataset)
    return dataset._resume(dataset._parallel_worker_world, dataset.next_epoch - 1)


def _share(original: Callable[..., Any], dataset: Any, epoch: int, sample: int) -> Any:
    """This worker's samples of the epoch."""
    if not _came_through(dataset):
        share = original(dataset, epoch, sample)
        if _now is not None:
            with open(_note(dataset), "w") as file:
                file.write(_now)
        return share
    world = dataset._parallel_worker_world
    whole = sys.modules[_HOME].generate_work(dataset.batching_method, dataset, world, epoch, sample)
    return whole[world.node, world.rank_of_node, world.worker_of_rank].flatten()


def _came_through(dataset: Any) -> bool:
    if _now is None:
        return False
    try:
        with open(_note(dataset)) as file:
            return file.read() == _now
    except OSError:
        return False


def _note(dataset: Any) -> str:
    """Beside the files with which the dataset's processes lock each other out."""
    name = f"{dataset._shm_prefix_int:06}_safeloader_{dataset._unique_worker_world.worker_of_node}"
    return os.path.join(dataset._filelock_root, name)
