"""What a driver's processes are at, for a stall report: read from another thread while the driver waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader import clock
from safeloader.core import messages as m
from safeloader.core.records import ProcessState
from safeloader.runtime.trainer.reporting import sample_name

if TYPE_CHECKING:
    from safeloader.core.view import TaskView
    from safeloader.runtime.trainer.driver import Driver

__all__ = ["Whereabouts", "whereabouts"]


class Whereabouts(NamedTuple):
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


def whereabouts(driver: Driver) -> Whereabouts:
    """Where the batch is that is due next."""
    for _ in range(3):
        try:
            return _look(driver)
        except (RuntimeError, KeyError):  # the books changed meanwhile: so it goes on
            continue
    return Whereabouts(0, -1, doing="the loader is at work")


def _look(driver: Driver) -> Whereabouts:
    seen = driver.supervisor.view()
    ready, due = seen.ready, seen.due
    if due is None:
        return Whereabouts(ready, seen.epoch, doing="no further batch is planned")
    hosting = seen.workers[due.worker].process
    process = None if hosting is None else driver.processes.get(hosting)
    if hosting == m.INLINE:
        return _at(ready, due, driver.processes.pid_of(m.INLINE), None, 0.0, "the main process loads it")
    if process is None:
        return _at(ready, due, None, None, 0.0, f"worker {due.worker} waits for a process")
    if seen.workers[due.worker].state is ProcessState.STARTING:
        pid = driver.processes.pid_of(process.number)  # a fork server may not have said it yet
        starting = f"{'a process' if pid is None else f'process {pid}'} is starting for worker {due.worker}"
        return _at(ready, due, pid, None, clock.now() - process.started_at, starting)
    page, pid = process.page.read(), driver.processes.pid_of(process.number)
    who = f"worker {due.worker} (pid {pid})"
    if page.setup is not None:
        again = f": it has loaded {page.replayed:,} of {page.of:,} batches again" if page.of else ""
        return _at(ready, due, pid, None, clock.now() - clock.at(page.taken_at), f"{who} is being set up{again}")
    if page.task == due.id:
        sample = None if page.sample is None else sample_name(due.indices, page.sample)
        seconds = clock.now() - (clock.at(page.taken_at if sample is None else page.progressed_at))
        doing = f"{who} has worked on " + ("it" if sample is None else f"sample {sample!r}")
        return _at(ready, due, pid, sample, seconds, doing)
    other = seen.tasks.get(page.task) if page.task is not None else None
    at = "an earlier batch" if other is None else f"batch {other.batch}"
    doing = f"{who} is idle" if page.task is None else f"{who} is at {at}"
    return _at(ready, due, pid, None, clock.now() - clock.at(page.progressed_at), doing)


def _at(ready: int, due: TaskView, pid: int | None, sample: Any, seconds: float, doing: str) -> Whereabouts:
    return Whereabouts(ready, due.epoch, due.batch, due.worker, pid, sample, seconds, doing)
