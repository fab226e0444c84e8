"""Who serves a driver's workers, and what each is at: read from another thread while the driver works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader import clock
from safeloader.core import messages as m
from safeloader.core.records import ProcessState
from safeloader.runtime.trainer.reporting import sample_name

if TYPE_CHECKING:
    from safeloader.core.view import View, WorkerView
    from safeloader.runtime.trainer.driver import Driver

__all__ = ["Post", "staff"]


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


def staff(driver: Driver) -> list[Post]:
    """Every worker of a driver; an empty list if its books change too fast to be read."""
    for _ in range(3):
        try:
            seen = driver.supervisor.view()
            return [_post(driver, seen, worker) for worker in seen.workers]
        except (RuntimeError, KeyError, ValueError, AttributeError):  # the books changed meanwhile
            continue
    return []


def _post(driver: Driver, seen: View, worker: WorkerView) -> Post:
    queued, hosting = worker.queued, worker.process
    if hosting == m.INLINE:
        return Post(worker.id, driver.processes.pid_of(m.INLINE), "in trainer", queued=queued)
    process = None if hosting is None else driver.processes.get(hosting)
    if process is None:
        return Post(worker.id, None, "without process", queued=queued)
    now = clock.now()
    if worker.state is ProcessState.STARTING:
        return Post(worker.id, process.pid or None, "starting", age=now - process.started_at, queued=queued)
    if worker.state is not ProcessState.READY:
        return Post(worker.id, process.pid or None, "ending", age=now - worker.since, queued=queued)
    page = process.page.read()
    if page.setup is not None:
        return Post(worker.id, process.pid or None, "set up", age=now - clock.at(page.taken_at), queued=queued)
    task = None if page.task is None else seen.tasks.get(page.task)
    if task is None:
        return Post(worker.id, process.pid or None, "idle", age=now - clock.at(page.progressed_at), queued=queued)
    if task.worker != worker.id:
        return Post(worker.id, process.pid or None, "elsewhere", queued=queued)
    sample = None if page.sample is None else sample_name(task.indices, page.sample)
    age = now - (clock.at(page.taken_at if page.sample is None else page.progressed_at))
    return Post(worker.id, process.pid or None, "loading", task.batch, sample, age, task.attempts, queued)
