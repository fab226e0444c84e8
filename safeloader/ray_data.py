"""Ray Data as a source: batches that a Ray cluster prepares, with a deadline, in a loader that reports."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from safeloader.errors import BatchTimeoutError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["from_dataset"]

_END = object()


def from_dataset(dataset: Any, *, timeout: float = 120.0, **options: Any) -> IterableDataset[Any]:
    """What ``dataset.iter_torch_batches(**options)`` gives, for a loader with ``batch_size=None`` in the main process.

    Ray Data keeps neither torch's order nor a position: what a Ray node loses, Ray prepares again, and the order may be
    another; a state of such a loader cannot go on in mid-epoch.

    Args:
        dataset: A Ray ``Dataset``, or the shard of one (``ray.train.get_dataset_shard("train")``).
        timeout: Seconds that a batch may take.
        options: Of ``iter_torch_batches``: ``batch_size``, ``prefetch_batches``, ``dtypes`` ...

    Raises:
        SettingsError: The timeout is not above 0.
        BatchTimeoutError: While iterating: a batch took longer.
    """
    if not timeout > 0:
        raise SettingsError(f"timeout={timeout!r} is not accepted", where="from_dataset", hint="seconds, above 0")
    return _Batches(dataset, timeout, options)


class _Batches(IterableDataset[Any]):
    """One epoch each time that it is iterated."""

    def __init__(self, dataset: Any, timeout: float, options: dict[str, Any]) -> None:
        self._dataset = dataset
        self._timeout = timeout
        self._options = options

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise SettingsError(
                "what Ray Data prepares is for the program that is connected to Ray",
                where="from_dataset",
                hint="num_workers=0: Ray's own processes load the data",
            )
        asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        came: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        thread = threading.Thread(target=self._read, args=(asked, came), name="safeloader-ray-data", daemon=True)
        thread.start()
        try:
            for number in range(1 << 62):
                asked.put(True)
                batch, error = self._next(came, number)
                if error is not None:
                    raise error
                if batch is _END:
                    return
                yield batch
        finally:
            asked.put(False)

    def _next(self, came: queue.SimpleQueue[Any], number: int) -> tuple[Any, BaseException | None]:
        try:
            answer: tuple[Any, BaseException | None] = came.get(timeout=self._timeout)
        except queue.Empty:
            raise BatchTimeoutError(
                f"Ray Data has not given batch {number} within {self._timeout:g} s",
                where="from_dataset",
                hint="ray.data's stats and the cluster's dashboard say what it waits for: dataset.stats()",
            ) from None
        return answer

    def _read(self, asked: queue.SimpleQueue[bool], came: queue.SimpleQueue[Any]) -> None:
        """A thread of its own, so that a batch that does not come can be given up."""
        try:
            batches = iter(self._dataset.iter_torch_batches(**self._options))
            while asked.get():
                batch = next(batches, _END)
                came.put((batch, None))
                if batch is _END:
                    return
        except BaseException as error:
            came.put((None, error))
