"""What has to be done again in a new copy of a dataset, so that it is as the lost one was.

A map-style dataset that tells no state of its own may change itself while it loads (a counter, a cache). Its process
looks now and then whether it has. What its worker has finished since the last look that saw nothing is logged: whoever
sets the worker up with a new copy begins where it stood then, and does that again. So what a dataset had changed is not
lost before its process has a shadow, nor where there can be none; and of one that does not change, next to nothing is
done again. After too many tasks, or too long a time of loading, the log is given up.

An iterable dataset is read again, which does again what it was changed by in this epoch. What earlier epochs left in it
is as much a part of it: so all that its worker has done is logged, from the first epoch on, within the same limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core.state import DIGEST, AsNew, Redo

if TYPE_CHECKING:
    from safeloader.core.records import WorkerRecord

__all__ = ["LONGEST", "MOST", "MOST_SAMPLES", "adopt", "as_got", "begin", "born", "log", "take_over"]

MOST = 1000
"""Tasks that a new copy may have to do again."""
MOST_SAMPLES = 250_000
"""Samples that these may have: their indices are kept, 9 MB of them."""
LONGEST = 60.0
"""Seconds that they may have taken."""


def begin(worker: WorkerRecord) -> None:
    """Its dataset is as a new copy of it is."""
    worker.unchanged, worker.done, worker.done_in = False, [], 0.0
    worker.done_samples = 0
    worker.as_new = AsNew(worker.epoch, worker.position, worker.snapshot)


def born(worker: WorkerRecord, snapshot: object) -> None:
    """Its generators, before an iterator was made of its dataset for the first time."""
    worker.epoch_snapshot = snapshot
    if worker.as_new is not None and not worker.begun:
        worker.as_new = worker.as_new._replace(snapshot=snapshot)


def adopt(worker: WorkerRecord, indexed: bool) -> None:
    """It goes on from a state, with a new copy: an iterable dataset is read to its place there, or told its state."""
    if worker.done is None:
        return
    begin(worker)
    if worker.marks:
        worker.done = None
    elif not indexed:
        ended = worker.exhausted and not worker.position
        before = worker.snapshot if ended else worker.epoch_snapshot
        worker.as_new = AsNew(worker.epoch, 0, before, ended)
        known = [bytes(worker.digests[i : i + DIGEST]) for i in range(0, len(worker.digests), DIGEST)]
        for digest in [*[b""] * (worker.position - len(known)), *known]:
            log(worker, Redo(None, digest=digest))


def as_got(worker: WorkerRecord) -> tuple[AsNew | None, tuple[Redo, ...] | None]:
    """What a new copy has to do again to be as the dataset was after the last task that the consumer got, and from
    where on; None: not known."""
    if worker.done is None:
        return None, None
    ahead = worker.position - worker.got
    kept = len(worker.done) - ahead
    if kept < 0:  # it was as new after tasks that the consumer has not got
        return None, ()
    if any(done.epoch is not None or done.back is not None for done in worker.done[kept:]):
        return None, None
    return worker.as_new, tuple(worker.done[:kept])


def take_over(worker: WorkerRecord, as_new: AsNew | None, done: tuple[Redo, ...]) -> None:
    """Another program's worker had changed its dataset: this one's does again what that one did."""
    begin(worker)
    if as_new is not None and done:
        worker.changed, worker.as_new = True, as_new
        for each in done:
            log(worker, each)


def log(worker: WorkerRecord, done: Redo, seconds: float = 0.0) -> None:
    """It has finished something, in so many seconds. Its record says already where it stands after that."""
    if worker.unchanged:
        begin(worker)
    elif worker.done is not None:
        worker.done.append(done)
        worker.done_in += seconds
        try:
            worker.done_samples += len(done.indices)  # type: ignore[arg-type]
        except TypeError:  # one sample, or a beginning
            worker.done_samples += 1
        if len(worker.done) > MOST or worker.done_samples > MOST_SAMPLES or worker.done_in > LONGEST:
            worker.done = None
