"""What follows when a process is gone: the books are put right, and policy decides by cause.

It gives back its leases (they are retired if it could not be killed), its lost tasks go to the front of their workers'
queues in the old order, and its workers find a home again. What was in work is to blame.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from safeloader.core import messages as m
from safeloader.core.records import ProcessRecord, ProcessState, Task, TaskState, Work, WorkerRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.books import Books
    from safeloader.core.fleet import Fleet
    from safeloader.core.quarantine import Quarantine
    from safeloader.core.restoring import Returning
    from safeloader.core.schedule import Schedule
    from safeloader.core.shadows import Shadows

__all__ = ["Recovery"]


class _Verdict(Enum):
    """What a fault means for the number of processes."""

    GO_ON = auto()
    STAY = auto()  # fewer would lose what datasets have changed in themselves
    LOWER = auto()
    DO_WITHOUT = auto()
    GIVE_UP = auto()


_IN_VAIN = 3  # faults in a row without a finished task: then datasets' changes are given up for fewer processes


class Recovery:
    """Turns faults into new work. ``give_up`` ends the loader with an error."""

    def __init__(
        self,
        books: Books,
        shadows: Shadows,
        returning: Returning,
        schedule: Schedule,
        quarantine: Quarantine,
        fleet: Fleet,
        give_up: Callable[[str, object, str], None],
    ) -> None:
        self._books = books
        self._shadows = shadows
        self._returning = returning
        self._schedule = schedule
        self._quarantine = quarantine
        self._fleet = fleet
        self._give_up = give_up

    def handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.ProcessExited: self._process_exited,
            m.StartRefused: self._start_refused,
            m.InlineInterrupted: self._inline_interrupted,
            m.InlineRefused: self._inline_refused,
        }

    def _start_refused(self, event: m.StartRefused) -> None:
        """No retry can help, unless it went well before: then the exit that follows is a fault like any other."""
        process = self._books.processes.get(event.process)
        if process is None:
            return
        failures = self._books.workers[process.work[0].worker].setup_failures if process.work else 0
        if not self._books.proven or failures >= self._books.settings.bad_sample_attempts:
            self._give_up("refused", event.error, "")

    def _process_exited(self, event: m.ProcessExited) -> None:
        process = self._books.processes.get(event.process)
        if process is not None and process.id != m.INLINE:
            self.lose(process, event)

    # ------------------------------------------------------------ a process is gone

    def lose(self, process: ProcessRecord, event: m.ProcessExited | None) -> None:
        """Take a process off the books; ``event`` is None if it could not be killed and is abandoned."""
        self._lose(process, event)
        process.become(ProcessState.GONE)
        if self._books.settings.stateless and not self._books.closed:
            self._schedule.leave_undone()

    def _lose(self, process: ProcessRecord, event: m.ProcessExited | None) -> None:
        del self._books.processes[process.id]
        self._books.unbalanced = True
        work, sample = self._in_work(process, event)
        redone = work is not None and work.kind == "setup" and work.redone
        self._shadows.process_lost(process, failed_setting_up=redone)
        for number in sorted(process.workers):
            self._take_back(self._books.workers[number], abandoned=event is None)
        if process.failback and not process.asked:
            self._fleet.failback.failed()
        if process.asked or process.killed_elsewhere:
            return
        cause = self._cause(process, event)
        task = work.task if work is not None else None
        stack = process.stack or (event.stack if event is not None else None)
        if work is not None and task is None and not redone:
            self._books.workers[work.worker].setup_failures += 1
            self._books.workers[work.worker].setup_hangs += cause == "hung"
        if work is not None and task is not None and work.kind == "task":
            self._quarantine.charge(task, cause, sample, stack)
            assert task.case is not None
            task.case.outside = cause == "died" and event is not None and event.detail == "SIGKILL"
        place = len(self._books.out)
        if process.spare:
            report = self._fault_report(process, event, cause, work, sample, stack, "standby")
            if process.standby:
                self._fleet.standby_lost(cause)
        else:
            verdict = _Verdict.GO_ON if self._books.closed else self._weigh(work, cause)
            action = self._action(process, event, verdict)
            report = self._fault_report(process, event, cause, work, sample, stack, action)
            if not self._books.closed:
                self._decide(work, cause, verdict, report["detail"])
        self._report(report, work, place)

    def _in_work(self, process: ProcessRecord, event: m.ProcessExited | None) -> tuple[Work | None, int | None]:
        """What the process worked on, and on which sample: only that can be to blame.

        Of a death, the progress page tells; it must name the oldest message in flight. Of a hang, that message is to
        blame even if the process never took it up, unless it was finished after all.
        """
        head = process.work[0] if process.work else None
        if head is None:
            return None, None
        if process.cause is not None or event is None:
            return (head, process.sample) if head is process.suspect else (None, None)
        named = event.setup if head.task is None else event.task
        return (head, event.sample) if named == head.about else (None, None)

    @staticmethod
    def _cause(process: ProcessRecord, event: m.ProcessExited | None) -> str:
        if process.cause is not None:
            return process.cause
        if event is not None and event.memory_short:
            return "oom"
        return "failed_start" if process.state is ProcessState.STARTING else "died"

    def _take_back(self, worker: WorkerRecord, abandoned: bool) -> None:
        """What was in flight of a worker waits again, first and in the old order; the worker has no home."""
        for item in reversed(worker.sent):
            if isinstance(item, Task):
                if abandoned and item.lease is not None:
                    self._books.leases.retire(item.lease)
                    item.lease = None
                self._schedule.free_lease(item)
                item.state = TaskState.WAITING
            worker.waiting.appendleft(item)
        worker.sent.clear()
        self._schedule.leave_undone_before_rewinding(worker)
        worker.host, worker.moving, worker.checking = None, False, False

    def _fault_report(
        self,
        process: ProcessRecord,
        event: m.ProcessExited | None,
        cause: str,
        work: Work | None,
        sample: int | None,
        stack: str | None,
        action: str,
    ) -> dict[str, Any]:
        """What is known of a fault before anything is decided about it. A signal that the loader sent is no detail."""
        condemned = process.cause is not None
        worker = work.worker if work is not None else min(process.workers) if len(process.workers) == 1 else None
        return {
            "cause": cause,
            "detail": "could not be killed" if event is None else "" if condemned else event.detail,
            "process": process.id,
            "task": work.task if work is not None else None,
            "worker": worker,
            "sample": sample,
            "stack": stack,
            "stalled": process.stalled if condemned else 0.0,
            "action": action,
            "again": (
                self._shadows.again(process)
                if action == "restored"
                else self._returning.again([self._books.workers[i] for i in process.workers])
            ),
        }

    def _report(self, report: dict[str, Any], work: Work | None, place: int) -> None:
        """Report a fault before the commands that follow from it, with what was decided."""
        lowered = [command.new for command in self._books.out[place:] if isinstance(command, m.ReportRung)]
        if lowered and report["action"] in ("restarted", "handed over"):
            report["action"] = f"fell back to {_processes(lowered[-1])}"
        self._books.report(verdict=self._outcome(work, place), place=place, **report)

    def _outcome(self, work: Work | None, place: int) -> str:
        """What becomes of the batch that was in work, now that policy has decided."""
        decided = self._books.out[place:]
        if any(isinstance(command, m.GiveUp) for command in decided):
            return "ended"
        task = work.task if work is not None else None
        if task is None or task.abandoned:
            return ""
        if any(isinstance(command, m.ReportSkipped) for command in decided):
            return "skipped"
        if task.state is TaskState.SETTLED:
            return "raised" if task.result is not None else ""
        return "searched" if self._books.workers[task.worker].search is not None else "again"

    def _action(self, process: ProcessRecord, event: m.ProcessExited | None, verdict: _Verdict) -> str:
        if event is None:
            return "abandoned"
        if self._books.closed:
            return "none"
        if verdict in (_Verdict.GO_ON, _Verdict.STAY) and self._shadows.holds_one_of(process):
            return "restored"
        standby = self._fleet.standby()
        ready = event.relieved or (standby is not None and standby.state is ProcessState.READY)
        workers = [self._books.workers[number] for number in process.workers]
        ready = ready or (len(workers) > 0 and all(self._fleet.has_neighbour(worker) for worker in workers))
        return "handed over" if ready else "restarted"

    # ------------------------------------------------------------ what policy says

    def _weigh(self, work: Work | None, cause: str) -> _Verdict:
        """Too many faults in too short a time, or too little memory: fewer processes.

        At the lowest rung what is blamed on a task, or on a worker's set-up or start of an epoch, does not end the
        loader, unless policy wants no fallback: a verdict on it will follow. Where fewer processes would lose what
        datasets have changed in themselves, they wait as long as batches come between the faults.
        """
        fleet, faults = self._fleet, self._books.faults
        lowest = fleet.rung == fleet.rungs[-1]
        if work is not None and (work.kind == "probe" or (lowest and self._books.settings.fallback != "off")):
            return _Verdict.GO_ON
        too_many = faults.add(self._books.now)
        if cause == "oom" and not lowest:
            return _Verdict.LOWER
        if not too_many:
            return _Verdict.GO_ON
        if lowest:
            return _Verdict.GIVE_UP if fleet.rung else _Verdict.DO_WITHOUT
        return _Verdict.STAY if fleet.keeps_what_would_be_lost() and faults.row <= _IN_VAIN else _Verdict.LOWER

    def _decide(self, work: Work | None, cause: str, verdict: _Verdict, detail: str = "") -> None:
        if verdict is _Verdict.LOWER:
            why = "memory is short" if cause == "oom" else f"too many faults, the last: {detail or cause}"
            self._fleet.lower(why)
        elif verdict is _Verdict.STAY:
            self._books.faults.postpone()
            self._books.emit(m.ReportStay(self._fleet.rung))
        elif verdict is _Verdict.DO_WITHOUT:
            self._do_without_processes(cause)
        elif verdict is _Verdict.GIVE_UP:
            self._give_up("restarts", None, cause)
        if self._books.closed or work is None:
            return
        if work.kind == "probe":
            self._quarantine.probe_died(self._books.workers[work.worker])
        elif work.task is not None:
            if work.task.state is TaskState.WAITING:
                self._quarantine.judge(work.task)
        elif self._books.workers[work.worker].setup_failures > self._books.settings.bad_sample_attempts:
            self._give_up("setup", None, cause)

    def _do_without_processes(self, cause: str) -> None:
        """No process can be had, and the trainer needs none: only what hurt one before is given up."""
        self._books.faults.clear()
        self._books.unbalanced = True
        if any(worker.setup_failures for worker in self._books.workers):
            self._give_up("starts", None, cause)
            return
        for worker in self._books.workers:
            worker.lenient = worker.lenient or worker.barred
            for task in [item for item in worker.waiting if isinstance(item, Task) and item.quarantined]:
                self._quarantine.do_without(task)

    # ------------------------------------------------------------ in the trainer

    def _inline_refused(self, event: m.InlineRefused) -> None:
        """A worker did what the trainer could not change back, or would end by: it goes on in a process."""
        worker = self._books.workers[event.worker]
        if worker.host == m.INLINE:
            worker.barred = True
            self._take_out(worker)
            self._books.emit(m.ReportRefused(worker.id, event.what))

    def _take_out(self, worker: WorkerRecord) -> None:
        """A worker leaves the trainer with what it has in work."""
        inline = self._books.processes[m.INLINE]
        inline.work = deque(work for work in inline.work if work.worker != worker.id)
        inline.workers.discard(worker.id)
        self._take_back(worker, abandoned=False)
        self._books.emit(m.DropWorker(m.INLINE, worker.id))
        self._books.unbalanced = True

    def _inline_interrupted(self, event: m.InlineInterrupted) -> None:
        inline = self._books.processes[m.INLINE]
        work = inline.work[0] if inline.work else None
        if work is None or work.task is None or work.task.id != event.task:
            return
        self._take_out(self._books.workers[work.worker])
        self._quarantine.charge(work.task, "hung", event.sample, event.stack)
        place = len(self._books.out)
        self._quarantine.judge(work.task)
        report = {
            "cause": "hung", "detail": "interrupted in the main process", "process": m.INLINE, "task": work.task,
            "sample": event.sample, "stack": event.stack, "action": "moved to a process",
        }  # fmt: skip
        self._report(report, work, place)


def _processes(number: int) -> str:
    return "the main process alone" if number == 0 else f"{number} process{'' if number == 1 else 'es'}"
