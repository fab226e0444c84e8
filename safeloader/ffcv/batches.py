"""The safe end of FFCV's thread, which the consumer holds.

FFCV's own iterator waits for ever when its thread dies, when it is asked once more after the end, and when it was
closed; it leaves a thread and 100 MB behind at every ``break``. Here whatever ends the thread arrives, `Batches.next`
has a deadline, and dropping the last reference ends the thread.
"""

from __future__ import annotations

import sys
import traceback
import weakref
from dataclasses import replace
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any

from safeloader.ffcv.made import LOOK, Bad, Failed, Made

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from safeloader.ffcv.producer import Producer
    from safeloader.ffcv.recipe import EnginePlace

__all__ = ["LOOK", "Bad", "Batches", "Failed", "Made", "ThreadHung"]


class ThreadHung(Exception):
    """The thread made no batch in time."""

    def __init__(self, seconds: float, stack: str, samples: Any) -> None:
        super().__init__(f"no batch for {seconds:.1f} s")
        self.seconds, self.stack, self.samples = seconds, stack, samples


class Batches:
    """The consumer's end. When nobody holds it any more, the thread ends.

    Args:
        producer: The thread.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._ended = False
        self._taken = 0
        self._end = weakref.finalize(self, producer.close)

    def next(self, seconds: float | None) -> Made:
        """The next batch.

        Args:
            seconds: How long the thread may work on one batch; None: for ever.

        Raises:
            StopIteration: The epoch is over, or this end was closed.
            Failed: The thread ended with an error; there is no further batch.
            ThreadHung: It makes no batch in time.
        """
        if self._ended:
            raise StopIteration
        asked = monotonic()
        while True:
            try:
                item = self._producer.output_queue.get(timeout=LOOK)
                break
            except Empty:
                self._look(asked, seconds)
        if item is None or isinstance(item, Failed):
            self._ended = True
            self.close()
            if item is None:
                raise StopIteration
            raise item
        self._producer.lent_too_late(self._taken)
        self._taken += 1
        return self._producer.settled(*item)

    def lend(self, place: EnginePlace, reserve: Callable[[list[int]], list[torch.Tensor]]) -> None:
        """Have a place's batch, if it is still to come, made in memory that ``reserve`` gives for sizes in bytes."""
        first = self._producer.place
        if replace(place, batch=first.batch) == first and place.batch - first.batch >= self._taken:
            self._producer.lend(place.batch - first.batch, reserve)

    def join(self) -> None:
        """Wait for the thread's end, however long its operation takes."""
        self._producer.join()

    def _look(self, asked: float, seconds: float | None) -> None:
        producer = self._producer
        if not producer.is_alive() and producer.output_queue.empty():
            self._ended = True
            raise Failed(producer.in_work) from RuntimeError("FFCV's thread ended without a word")
        began = producer.began
        stalled = monotonic() - (began if began is not None else asked)
        if seconds is not None and stalled > seconds:
            self._ended = producer.abandoned = True
            raise ThreadHung(stalled, self.stack(), producer.in_work)

    def stack(self) -> str:
        """Where the thread stands."""
        frame = sys._current_frames().get(self._producer.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def close(self) -> None:
        """End the thread."""
        self._ended = True
        self._end()
