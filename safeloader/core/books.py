"""What all parts of the supervisor share: who works, what is to be done, and what is still to be seen to.

A part keeps to itself what only it changes. The books hold the rest, so that no part has to know the supervisor, or a
part above it: a part that finds something for another one above marks it here, and ``Supervisor.handle()`` sees to the
marks after the event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core import new_copy
from safeloader.core.leases import Leases
from safeloader.core.policy import RestartWindow
from safeloader.core.records import ProcessRecord, ProcessState, WorkerRecord

if TYPE_CHECKING:
    from safeloader.core.policy import CoreSettings
    from safeloader.core.records import Task

__all__ = ["Books"]


class Books:
    """The records of one loader, and the commands that an event gives rise to.

    Args:
        settings: what policy wants.

    Attributes:
        now: the time of the event that is being handled.
        out: the commands so far, in the order in which they are to be carried out.
        closed: no batch is wanted any more.
        proven: a process has set a worker up: what it was given can be rebuilt.
        faults: those that lead down the ladder; ``standby_faults`` those of standbys.
        changing: a worker's dataset was seen to change itself.
        fell_back: a process was to be on another host, and found no room there.
        unbalanced: a mark: something changed, so the fleet has to be balanced.
        progressed: a mark: the worker of which something is finished, so that it may be free to move.
    """

    def __init__(self, settings: CoreSettings) -> None:
        self.settings = settings
        self.now = 0.0
        self.out: list[m.Command] = []
        self.closed = False
        self.epoch = -1
        self.workers = [WorkerRecord(number) for number in range(settings.num_workers)]
        if not (settings.indexed and settings.stateful):
            for worker in self.workers:
                new_copy.begin(worker)
        self.processes: dict[int, ProcessRecord] = {m.INLINE: ProcessRecord(m.INLINE, ProcessState.READY)}
        self.window = settings.prefetch_factor * settings.num_workers
        self.leases = Leases(keep=self.window + 8)
        self.proven = False
        self.faults = RestartWindow(settings.max_restarts, settings.restart_period)
        self.standby_faults = RestartWindow(settings.max_restarts, settings.restart_period)
        self.changing = False
        self.fell_back = False
        self.unbalanced = False
        self.progressed: WorkerRecord | None = None

    def emit(self, command: m.Command) -> None:
        """Add to what is to be done."""
        self.out.append(command)

    def report(
        self,
        cause: str,
        detail: str,
        process: int,
        task: Task | None,
        *,
        worker: int | None = None,
        sample: int | None = None,
        stack: str | None = None,
        stalled: float = 0.0,
        action: str,
        again: int | None = None,
        verdict: str = "",
        place: int | None = None,
    ) -> None:
        """Report a fault, at ``place`` among the commands: before those that follow from it."""
        self.out.insert(
            len(self.out) if place is None else place,
            m.ReportFault(
                cause, detail, process, task.worker if task else worker, task.id if task else None,
                task.epoch if task else self.epoch, task.batch if task else None, task.indices if task else None,
                sample, stack, task.attempts if task else 0, stalled, action, again, verdict,
            ),
        )  # fmt: skip
