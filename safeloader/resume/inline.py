"""Without workers: the main process's own dataset is put back where it stood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.errors import StateError
from safeloader.runtime.child.dataset_state import is_stateful

if TYPE_CHECKING:
    from safeloader.resume.checkpoint import LoaderCheckpoint

__all__ = ["restore_dataset", "restore_iterator", "worth_keeping"]


def _said(point: LoaderCheckpoint | None) -> dict[str, Any]:
    if point is None or not point.state.workers or point.state.workers[0].mark is None:
        return {}
    said: dict[str, Any] = point.state.workers[0].mark.content  # type: ignore[assignment]
    return said


def restore_dataset(dataset: Any, point: LoaderCheckpoint | None) -> None:
    """Before its iterator is made."""
    said = _said(point)
    own = said.get("dataset", said.get("iterator") if point is not None and point.state.over else None)
    if own is None:
        return
    if is_stateful(dataset):
        dataset.load_state_dict(own)
    elif "dataset" in said:
        raise StateError("the state holds one of the dataset, which has no load_state_dict")


def restore_iterator(fetcher: Any, point: LoaderCheckpoint | None) -> None:
    """After its iterator was made: its own state, or as many batches as were got, loaded again and dropped."""
    if point is None or point.state.over or not hasattr(fetcher, "dataset_iter"):
        return
    said = _said(point)
    fetcher.ended = bool(said) and point.state.workers[0].ended
    if "iterator" in said:
        fetcher.dataset_iter.load_state_dict(said["iterator"])
    elif "dataset" not in said:
        for _ in range(point.state.batch):
            try:
                fetcher.fetch([None] * (point.facts["batch_size"] or 1))
            except StopIteration:
                raise StateError("the dataset ends before the place where the state was taken") from None
            except Exception:  # it was raised then, too
                pass


def worth_keeping(fetcher: Any) -> bool:
    """True if the state needs it: an iterator that can tell its state, or whose dataset can."""
    iterator = getattr(fetcher, "dataset_iter", None)
    return iterator is not None and (is_stateful(iterator) or is_stateful(fetcher.dataset))
