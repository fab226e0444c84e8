"""What a driver's workers are at, and the batch that is due: read from another thread while the driver works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader import clock
from safeloader.core import messages as m
from safeloader.core.records import ProcessState
from safeloader.runtime.trainer.reporting import sample_name

if TYPE_CHECKING:
    from safeloader.core.view import TaskView, View, WorkerView
    from safeloader.runtime.trainer.driver import Driver
    from safeloader.runtime.trainer.process_handle import ProcessHandle

__all__ = ["DueBatch", "Inspection", "Post", "inspect"]


class Post(NamedTuple):
    """One worker.

    Attributes:
        worker: its id.
        process: pid of the process that hosts it; None if none does.
        state: ``"loading"``, ``"idle"``, ``"elsewhere"`` (its process works for another worker), ``"set up"``,
            ``"starting"``, ``"ending"``, ``"in trainer"`` or ``"without process"``.
        batch: the batch in work, from 0, or None.
        sample: the index in work, where known.
        age: seconds that it has been at that.
        attempts: processes that this batch has killed or hung so far.
        queued: batches that wait for it.
    """

    worker: int
    process: int | None
    state: str
    batch: int | None = None
    sample: Any = None
    age: float = 0.0
    attempts: int = 0
    queued: int = 0


class DueBatch(NamedTuple):
    """The batch that is due, and who has it.

    Attributes:
        ready: batches that are loaded and wait for the consumer.
        epoch: epoch, from 0.
        batch: number of the batch that is due; None if none is planned.
        worker: whose it is.
        process: pid of the process that hosts that worker; None if none does.
        sample: the sample in work there, where known.
        seconds: how long it has been in work.
        doing: words for what holds it up.
    """

    ready: int
    epoch: int
    batch: int | None = None
    worker: int | None = None
    process: int | None = None
    sample: Any = None
    seconds: float = 0.0
    doing: str = ""


class Inspection(NamedTuple):
    """A loader's workers, and its next batch, at one moment."""

    due: DueBatch
    posts: tuple[Post, ...]


def inspect(driver: Driver) -> Inspection:
    """Take a look; no posts if the driver's books change too fast to be read."""
    for _ in range(3):
        try:
            seen = driver.supervisor.view()
            return Inspection(_due(driver, seen), tuple(_post(driver, seen, worker) for worker in seen.workers))
        except (RuntimeError, KeyError, ValueError, AttributeError):  # the books changed meanwhile: so it goes on
            continue
    return Inspection(DueBatch(0, -1, doing="the loader is at work"), ())


def _post(driver: Driver, seen: View, worker: WorkerView) -> Post:
    queued, process = worker.queued, _process(driver, worker)
    if worker.process == m.INLINE:
        return Post(worker.id, driver.processes.pid_of(m.INLINE), "in trainer", queued=queued)
    if process is None:
        return Post(worker.id, None, "without process", queued=queued)
    pid, now = process.pid or None, clock.now()
    if worker.state is ProcessState.STARTING:
        return Post(worker.id, pid, "starting", age=now - process.started_at, queued=queued)
    if worker.state is not ProcessState.READY:
        return Post(worker.id, pid, "ending", age=now - worker.since, queued=queued)
    page = process.page.read()
    if page.setup is not None:
        return Post(worker.id, pid, "set up", age=now - clock.at(page.taken_at), queued=queued)
    task = None if page.task is None else seen.tasks.get(page.task)
    if task is None:
        return Post(worker.id, pid, "idle", age=now - clock.at(page.progressed_at), queued=queued)
    if task.worker != worker.id:
        return Post(worker.id, pid, "elsewhere", queued=queued)
    sample = None if page.sample is None else sample_name(task.indices, page.sample)
    age = now - clock.at(page.taken_at if page.sample is None else page.progressed_at)
    return Post(worker.id, pid, "loading", task.batch, sample, age, task.attempts, queued)


def _due(driver: Driver, seen: View) -> DueBatch:
    due = seen.due
    if due is None:
        return DueBatch(seen.ready, seen.epoch, doing="no further batch is planned")
    worker = seen.workers[due.worker]
    batch, process = DueBatch(seen.ready, due.epoch, due.batch, due.worker), _process(driver, worker)
    if worker.process == m.INLINE:
        return batch._replace(process=driver.processes.pid_of(m.INLINE), doing="the main process loads it")
    if process is None:
        return batch._replace(doing=f"worker {due.worker} waits for a process")
    pid = driver.processes.pid_of(process.number)  # a fork server may not have said it yet
    batch = batch._replace(process=pid)
    if worker.state is ProcessState.STARTING:
        starting = f"{'a process' if pid is None else f'process {pid}'} is starting for worker {due.worker}"
        return batch._replace(seconds=clock.now() - process.started_at, doing=starting)
    return _in_process(batch, due, seen, process)


def _in_process(batch: DueBatch, due: TaskView, seen: View, process: ProcessHandle) -> DueBatch:
    page, who = process.page.read(), f"worker {due.worker} (pid {batch.process})"
    since = clock.now() - clock.at(page.progressed_at)
    if page.setup is not None:
        again = f": it has loaded {page.replayed:,} of {page.of:,} batches again" if page.of else ""
        return batch._replace(seconds=clock.now() - clock.at(page.taken_at), doing=f"{who} is being set up{again}")
    if page.task == due.id:
        if page.sample is None:
            return batch._replace(seconds=clock.now() - clock.at(page.taken_at), doing=f"{who} has worked on it")
        sample = sample_name(due.indices, page.sample)
        return batch._replace(sample=sample, seconds=since, doing=f"{who} has worked on sample {sample!r}")
    if page.task is None:
        return batch._replace(seconds=since, doing=f"{who} is idle")
    other = seen.tasks.get(page.task)
    at = "an earlier batch" if other is None else f"batch {other.batch}"
    return batch._replace(seconds=since, doing=f"{who} is at {at}")


def _process(driver: Driver, worker: WorkerView) -> ProcessHandle | None:
    return None if worker.process is None else driver.processes.get(worker.process)
