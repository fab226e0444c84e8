"""Where each worker stands, on its way between a state and the workers: what datasets said, packed and unpacked."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from safeloader.errors import StateError
from safeloader.runtime import by_value

if TYPE_CHECKING:
    from safeloader.core.state import State, WorkerCursor
    from safeloader.resume.checkpoint import LoaderCheckpoint

__all__ = ["check_workers", "opened", "packed", "planned_first", "refuse_error"]


def check_workers(point: LoaderCheckpoint, count: int) -> None:
    """Refuse a state that does not speak of each of so many workers.

    Raises:
        StateError: it does not.
    """
    state = point.state
    needed = point.begun and (not state.over or point.facts["persistent_workers"])
    if (needed and len(state.workers) != count) or any(task.worker not in range(count) for task in state.planned):
        raise StateError("this state is damaged: it does not speak of each worker once")


def refuse_error(said: dict[str, Any] | None) -> None:
    """Raise what a dataset's own ``state_dict`` raised.

    Raises:
        StateError: it did.
    """
    if said is not None and "error" in said:
        raise StateError(f"the dataset's state_dict failed: {said['error']}")


def opened(state: State, classes: list[type]) -> State:
    """The same with what datasets said of themselves as the user's own objects."""
    return state._replace(workers=tuple(_opened(standing, classes) for standing in state.workers))


def packed(state: State, classes: list[type]) -> State:
    """The same with what datasets said of themselves packed for the workers."""
    return state._replace(workers=tuple(_packed(standing, classes) for standing in state.workers))


def planned_first(state: State, draws: Any) -> Any:
    """Without workers: what was planned elsewhere comes before further draws."""
    planned = [task.indices for task in state.planned]
    return itertools.chain(planned, () if state.exhausted else draws) if planned or state.exhausted else draws


def _opened(standing: WorkerCursor, classes: list[type]) -> WorkerCursor:
    if standing.mark is None or not isinstance(standing.mark.content, bytes):
        return standing
    said = by_value.loads(standing.mark.content, classes)
    refuse_error(said)
    return standing._replace(mark=standing.mark._replace(content=said))


def _packed(standing: WorkerCursor, classes: list[type]) -> WorkerCursor:
    if standing.mark is None:
        return standing
    return standing._replace(mark=standing.mark._replace(content=by_value.dumps(standing.mark.content, classes)))
