"""How long is too long: deadlines of processes, and what follows when one passes.

::

    STARTING --startup_timeout--> CAPTURING            asked for its stacks; sooner where others were much faster
    READY    --batch_timeout----> inspected: moving? a later deadline. Still? CAPTURING (stopped: killed at once)
    CAPTURING --capture_timeout-> KILLING              or back to READY if it finishes after all
    KILLING  --kill_timeout-----> abandoned            a process that cannot die (D state)
    STOPPING --stop_timeout-----> KILLING

A deadline counts from the last sign of progress: when the process took the task or finished a sample (it writes both
to shared memory), or finished the task before. So a hang that happened while the trainer was busy is seen at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.policy import Deadlines
from safeloader.core.records import ProcessRecord, ProcessState, Work, WorkerRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.books import Books

__all__ = ["FORK_TIMEOUT", "DeadlineWatch"]

_READY, _STARTING = ProcessState.READY, ProcessState.STARTING  # looked up for every batch
FORK_TIMEOUT = 20.0
"""Seconds for a shadow to make a process, which takes it a moment: another way is tried then."""
_DOUBLINGS = 2  # of the time to start: what needs more than four times of it will not come


class DeadlineWatch:
    """The supervisor's view of time."""

    def __init__(self, books: Books) -> None:
        settings = books.settings
        self._books = books
        self.deadlines = Deadlines(
            settings.batch_timeout, settings.startup_timeout, settings.learned_ceiling, settings.slowest_start
        )
        self._slow_starts = 0  # in a row: the next process has twice the time

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.ProcessInspected: self._process_inspected,
            m.ProcessLostElsewhere: self._process_forfeited,
            m.StacksCaptured: self._stacks_captured,
        }

    # ------------------------------------------------------------ setting deadlines

    def started(self, process: ProcessRecord) -> None:
        """A process begins to start."""
        process.since = self._books.now
        self._arm_start(process)

    def _arm_start(self, process: ProcessRecord) -> None:
        """When to look at a start next: to tell that it is slow, or to give it up."""
        if process.kept:
            process.deadline = process.since + FORK_TIMEOUT
            return
        seconds, slow = self.deadlines.start(self._slow_starts), self.deadlines.slow_start()
        process.deadline = process.since + (seconds if process.slow_start_told else min(slow, seconds))

    def ready(self, process: ProcessRecord, at: float | None) -> None:
        """A process finished its start; the others are measured by it."""
        self._slow_starts = 0
        if not process.kept:
            self.deadlines.started((self._books.now if at is None else at) - process.since)
        for other in self._books.processes.values():
            if other.state is _STARTING and other is not process:
                self._arm_start(other)
        if process.standby:
            self._books.standby_faults.row = 0
        self.clear_suspicion(process)
        self.arm(process)

    def arm(self, process: ProcessRecord) -> None:
        """Set the deadline for the oldest work in flight."""
        if process.state is not _READY or process.id == m.INLINE:
            return
        if process.work:
            head = process.work[0]
            process.deadline = max(process.since, head.sent_at) + self._allowed(head)
        else:
            process.deadline = math.inf

    def learn(self, event: m.TaskLoaded, worker: WorkerRecord) -> None:
        """Let automatic deadlines know how long a batch took; what is in flight behind it profits at once."""
        first = worker.position == 1
        if self.deadlines.observe(event.finished_at - event.taken_at, first) or first:
            self.arm(self._books.processes[event.process])

    def ask_to_end(self, process: ProcessRecord) -> None:
        """Let a process end by itself, soon; one that still starts has nothing to finish, and is killed (unless
        others wait for it, too: then it is only left)."""
        if process.state is ProcessState.STARTING and not self._books.settings.shared:
            process.asked = True
            self._kill(process)
            return
        process.become(ProcessState.STOPPING)
        process.asked = True
        process.deadline = self._books.now + self._books.settings.stop_timeout
        self._books.emit(m.StopProcess(process.id))

    def clear_suspicion(self, process: ProcessRecord) -> None:
        """It works; if it was condemned, that was a false alarm."""
        self._books.unbalanced = process.state is ProcessState.CAPTURING or self._books.unbalanced
        process.become(ProcessState.READY)
        process.cause = process.suspect = process.stack = None

    def patience(self, setting_up: bool) -> float:
        """Seconds for what is still in work when the loader has left a process of its pool."""
        return self.deadlines.startup(0) if setting_up else self.deadlines.batch(0, first=True)

    def _allowed(self, work: Work) -> float:
        worker, task = self._books.workers[work.worker], work.task
        if work.kind == "resume" and self._books.settings.indexed:  # there is next to nothing to do
            return self.deadlines.batch(worker.setup_hangs, first=True)
        if task is None:
            return self.deadlines.startup(worker.setup_hangs)
        hangs = 0 if task.case is None or work.kind != "task" else task.case.hangs
        return self.deadlines.batch(hangs, worker.position == 0)

    # ------------------------------------------------------------ when one passes

    def passed(self, process: ProcessRecord) -> bool:
        """See to a process if its deadline has passed. True if it could not be killed, so that it is lost."""
        now = self._books.now
        if process.deadline > now:
            return False
        starting = process.state is _STARTING
        if process.state is _READY or (starting and (self._books.settings.shared or self._is_in_time(process))):
            process.deadline = now + self._books.settings.capture_timeout  # should nobody answer
            self._books.emit(m.InspectProcess(process.id))
        elif starting:
            self._start_is_late(process)
        elif process.state is ProcessState.KILLING:
            self._books.emit(m.AbandonProcess(process.id))
            return True
        else:
            self._kill(process)
        return False

    def _process_inspected(self, event: m.ProcessInspected) -> None:
        process = self._books.processes.get(event.process)
        if process is not None and process.state is _STARTING:
            if event.elsewhere:
                process.deadline = self._books.now + self.deadlines.start(self._slow_starts)
            else:
                self._start_is_late(process, stopped=event.state == "T")
            return
        if process is None or process.state is not _READY:
            return
        stopped = event.state == "T"  # it will not move, so there is nothing to wait for
        if not process.work:
            if process.standby and stopped:
                self._condemn(process, "stopped", 0.0)
            return
        named, now = self._named(process, event), self._books.now
        head, on_it = named or process.work[0], named is not None
        if event.elsewhere:  # it has not come to our work yet, and what it does there is not ours to judge
            process.deadline = now + self._allowed(head)
            return
        progress = max(head.sent_at, process.since, event.progressed_at, event.taken_at if on_it else -math.inf)
        allowed = self._allowed(head)
        idle = event.task is None and event.setup is None
        if progress + allowed <= now and idle and process.grace_used is not head:
            process.grace_used, progress = head, now  # it may just have waited to be heard, while the trainer was busy
        if progress + allowed > now and not stopped:
            process.deadline = progress + allowed
            if on_it and head.task is not None and event.taken_at + 2 * allowed <= now:
                self._report_slow(process, head, now - event.taken_at, event.sample)
            return
        process.suspect, process.sample = head, event.sample if on_it else None
        self._condemn(process, "stopped" if stopped else "hung", now - progress)

    @staticmethod
    def _named(process: ProcessRecord, event: m.ProcessInspected) -> Work | None:
        """The work that the page names. It may be ahead of our books: the answers to what was sent before it are there,
        or on their way, and only it can hold the process up."""
        for work in process.work:
            if work.about == (event.setup if work.task is None else event.task):
                return work
        return None

    def _is_in_time(self, process: ProcessRecord) -> bool:
        """It still starts, which takes longer than it should, and may go on: unless somebody has stopped it."""
        return not process.kept and self._books.now < process.since + self.deadlines.start(self._slow_starts)

    def _start_is_late(self, process: ProcessRecord, stopped: bool = False) -> None:
        """Tell so once, and give it up when its time is over; at once where somebody has stopped it."""
        if process.kept or stopped:  # one that a shadow makes has only to be forked
            self._condemn(process, "failed_start", self._books.now - process.since)
            return
        if self._is_in_time(process):
            if not process.slow_start_told and self._books.now >= process.since + self.deadlines.slow_start():
                process.slow_start_told = True
                self._books.emit(m.ReportSlowStart(process.id, self._books.now - process.since))
            self._arm_start(process)
            return
        self._slow_starts = min(self._slow_starts + 1, _DOUBLINGS)
        self._condemn(process, "failed_start", self._books.now - process.since)

    def _process_forfeited(self, event: m.ProcessLostElsewhere) -> None:
        """It gets no more work, and its exit lays no blame; should it not come, the process is abandoned."""
        process = self._books.processes.get(event.process)
        if process is None or process.asked or process.state is ProcessState.KILLING:
            return
        process.killed_elsewhere, process.cause = True, None
        self._await_exit(process)

    def _report_slow(self, process: ProcessRecord, head: Work, seconds: float, sample: int | None) -> None:
        task = head.task
        if task is not None and process.slow_reported != task.id:
            process.slow_reported = task.id
            self._books.emit(m.ReportSlow(head.worker, task.id, task.epoch, task.batch, seconds, sample))

    def _condemn(self, process: ProcessRecord, cause: str, stalled: float) -> None:
        process.cause, process.stalled = cause, stalled
        if cause == "stopped":  # it cannot answer, but SIGKILL reaches it
            self._kill(process)
            return
        process.become(ProcessState.CAPTURING)
        process.deadline = self._books.now + self._books.settings.capture_timeout
        self._books.emit(m.CaptureStacks(process.id))

    def _stacks_captured(self, event: m.StacksCaptured) -> None:
        process = self._books.processes.get(event.process)
        if process is not None and process.state is ProcessState.CAPTURING:
            process.stack = event.text
            self._kill(process)

    def replace(self, process: ProcessRecord) -> None:
        """End a process that has done nothing wrong, for its shadow to make another."""
        process.killed_elsewhere = True
        self._kill(process)

    def _kill(self, process: ProcessRecord) -> None:
        self._await_exit(process)
        self._books.emit(m.KillProcess(process.id))

    def _await_exit(self, process: ProcessRecord) -> None:
        process.become(ProcessState.KILLING)
        process.deadline = self._books.now + self._books.settings.kill_timeout
