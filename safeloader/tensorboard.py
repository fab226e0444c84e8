"""Numbers of this program's loaders as TensorBoard scalars.

It needs ``pip install tensorboard``. docs/metrics.md lists them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safeloader.errors import SafeLoaderError
from safeloader.observe.numbers import Number, numbers

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TensorBoardSink"]


class TensorBoardSink:
    """Writes all numbers when it is told to.

    ::

        with TensorBoardSink("runs/1") as sink:      # or TensorBoardSink(writer), with the SummaryWriter that you have
            for epoch in range(50):
                ...
                sink.write(epoch)

    Tags are ``safeloader/train/batches``, ``safeloader/train/stage_quantile_seconds/0/load/0.95``.

    Args:
        where: a ``torch.utils.tensorboard.SummaryWriter``, or the folder for a new one.

    Raises:
        SafeLoaderError: ``tensorboard`` is not installed, and a folder was given.
    """

    def __init__(self, where: Any) -> None:
        self._own = isinstance(where, (str, os.PathLike))
        self._writer = _new_writer(os.fspath(where)) if self._own else where

    def write(self, step: int) -> None:
        """Write all numbers at this step, from each loader's first epoch on."""
        for number in numbers():
            self._writer.add_scalar(_tag(number), number.value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the writer, if this sink made it."""
        if self._own:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tag(number: Number) -> str:
    labels = dict(number.labels)
    loader, rank = labels.pop("loader"), labels.pop("rank", None)
    parts = ["safeloader", loader, *([f"rank {rank}"] if rank is not None else []), number.row.name, *labels.values()]
    return "/".join(part.replace("/", "_") for part in parts)


def _new_writer(folder: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SafeLoaderError(
            "TensorBoard's files need tensorboard, which is not installed",
            hint="pip install tensorboard",
            code="SL231",
        ) from error
    return SummaryWriter(folder)
