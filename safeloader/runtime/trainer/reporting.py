"""Puts the supervisor's reports into the words of the recorder (its errors: `raising`)."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from safeloader import clock
from safeloader.codes import warn
from safeloader.errors import StartError
from safeloader.notes import place
from safeloader.observe.events import LOSSES
from safeloader.observe.report import Fault
from safeloader.runtime.trainer import source_changes
from safeloader.runtime.trainer.raising import ErrorRaiser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safeloader.core import messages as m
    from safeloader.observe.recorder import Recorder
    from safeloader.runtime.pool.standbys import Loss
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.trainer.journal import Journal
    from safeloader.runtime.trainer.process_handle import ProcessHandle

__all__ = ["Reporter"]


class Reporter:
    """Speaks for one driver.

    Args:
        journal: has the books that are told of.
        launcher: how processes come to be.
        recorder: who keeps and tells it.
        pid_of: the pid behind a process's number in the books, or None.

    Attributes:
        errors: makes the errors.
    """

    def __init__(
        self, journal: Journal, launcher: Launcher, recorder: Recorder, pid_of: Callable[[int], int | None]
    ) -> None:
        self.errors = ErrorRaiser(journal, recorder, pid_of)
        self._journal = journal
        self._launcher = launcher
        self._recorder = recorder
        self._pending: list[tuple[int, float, int]] = []  # fault, since when, the batch it held up
        self._epoch_started_with = recorder.batches
        source_changes.remember()

    # ------------------------------------------------------------ reports

    def started(self, process: ProcessHandle) -> None:
        if changed := sorted({*source_changes.changed(), *self._launcher.outdated}):
            self._recorder.code_changed(changed)
        books = self._journal.supervisor.fleet.processes.get(process.number)
        workers = sorted(books.workers) if books is not None else []
        self._recorder.started(process.pid, workers, clock.now() - process.started_at)

    def differs(self, process: ProcessHandle, what: list[str]) -> None:
        """A process could not take over everything from the trainer."""
        self._recorder.differs(process.pid, what)

    def fault(self, c: m.ReportFault, pid: int | None) -> None:
        settings = self._journal.supervisor.settings
        indices = c.indices if settings.indexed else None  # torch's sampler gives None for each sample of a stream
        sample = None if c.sample is None or indices is None else sample_name(indices, c.sample)
        number = self._recorder.fault(
            Fault(
                time=0.0,
                loader="",
                cause=c.cause,
                worker=c.worker,
                process=pid,
                epoch=c.epoch,
                batch=c.batch,
                indices=_listed(indices),
                sample=sample,
                detail=c.detail,
                stack=c.stack,
                attempts=c.attempts,
                action=c.action,
                stalled=c.stalled or None,
                again=c.again,
                verdict=c.verdict,
            )
        )
        if c.cause in ("raised", "unpicklable") and c.task is not None and c.batch is not None:
            self.errors.note(
                c.task,
                place(
                    c.indices, c.sample, indexed=settings.indexed, batched=settings.batched, batch=c.batch,
                    epoch=c.epoch, worker=c.worker,
                ),
            )  # fmt: skip
        if c.cause in LOSSES:
            held_up = c.task if c.task is not None else -1
            self._pending.append((number, monotonic() - c.stalled, held_up))

    def standby_lost(self, loss: Loss) -> None:
        """A standby of the pool is gone."""
        self._recorder.fault(
            Fault(
                time=0.0, loader="", cause=loss.cause, worker=None, process=loss.pid or None,
                epoch=self._journal.supervisor.epoch, detail=loss.detail, action="standby",
            )
        )  # fmt: skip

    def shadowed(self, private: int) -> None:
        """A process has copied itself; the copy before it had so many bytes to itself."""
        self._recorder.shadowed(private)

    def unshadowed(self, why: str) -> None:
        """A process cannot copy itself."""
        self._recorder.unshadowed(why)

    def start_complaints(self) -> None:
        """Something of the start was asked for and cannot be had, such as a fork server: say why.

        Raises:
            StartError: policy is strict.
        """
        reasons, self._launcher.complaints[:] = list(self._launcher.complaints), []
        for why in reasons:
            text = f"{self._recorder.name}: {why}"
            if self._launcher.strict:
                raise StartError(text, hint='give start_method="spawn", or unset SAFELOADER_STRICT', code="SL102")
            warn("SL102", text, stacklevel=7)

    def replayed(self, c: m.ReportReplay) -> None:
        """A worker came to its place again, or did not."""
        self._recorder.replayed(*c)

    def not_restored(self, worker: int, paths: Sequence[str]) -> None:
        """Generator objects of a worker's dataset could not be put back."""
        books = self._journal.supervisor.workers[worker]
        self._recorder.replayed(
            worker, books.epoch, "missing", "generators", 0, books.position, 0, ", ".join(paths), "goes on"
        )

    def rung(self, c: m.ReportRung) -> None:
        tell = self._recorder.fell_back if c.new < c.old else self._recorder.recovered
        tell(c.old, c.new, c.why)

    def stays(self, c: m.ReportStay) -> None:
        self._recorder.stays(c.rung)

    def slow(self, c: m.ReportSlow) -> None:
        task = self._journal.supervisor.tasks.get(c.task)
        sample = sample_name(task.indices, c.sample) if task is not None and c.sample is not None else None
        self._recorder.slow(c.batch, c.worker, c.seconds, sample)

    def slow_start(self, process: ProcessHandle, seconds: float) -> None:
        """A process is late: how far it is, and where it stands."""
        self._recorder.slow_start(process.pid or None, seconds, process.phase, process.stacks_soon() or None)

    def skipped(self, c: m.ReportSkipped) -> None:
        why = f"{c.cause}; no process can be started to try it again" if c.unresolved else c.cause
        for index in c.indices:
            self._recorder.skipped(c.epoch, c.batch, index, why)

    def refused(self, c: m.ReportRefused) -> None:
        self._recorder.not_undone(c.worker, c.what, "moved to a process")

    def not_undone(self, worker: int, what: str, left_out: bool) -> None:
        """A worker in the trainer: what could not be undone, and was left out or done all the same."""
        self._recorder.not_undone(worker, what, "left out" if left_out else "done")

    def loaded(
        self, process: ProcessHandle, task: int, taken: float, collated: float, finished: float, nbytes: int
    ) -> None:
        """A process has loaded a batch."""
        books, tracer = self._journal.supervisor.schedule.tasks.get(task), self._recorder.tracer
        if books is None:
            return
        self._recorder.timings.loaded(task, books.worker, collated - taken, finished - collated)
        if tracer is not None:
            tracer.loaded(task, books.epoch, books.batch, books.worker, process.pid, taken, collated, finished, nbytes)

    def loaded_here(self, task: int, worker: int, seconds: float) -> None:
        """The trainer itself has loaded and collated a batch."""
        self._recorder.timings.loaded(task, worker, seconds, None)

    def delivered(self, task: int, transfer: float) -> None:
        """A batch reaches the consumer, decoded in so many seconds; what a fault cost that held it up is known now."""
        self._recorder.batches += 1
        self._recorder.timings.delivered(task, transfer)
        if self._recorder.tracer is not None:
            self._recorder.tracer.delivered(task)
        if self._pending:
            now = monotonic()
            for number, since, _ in [p for p in self._pending if p[2] <= task]:
                self._recorder.resumed(number, now - since)
            self._pending = [p for p in self._pending if p[2] > task]

    def epoch_ended(self) -> None:
        batches = self._recorder.batches - self._epoch_started_with
        self._epoch_started_with = self._recorder.batches
        self._recorder.epoch(self._journal.supervisor.epoch, batches)


def _listed(indices: object) -> list[Any] | None:
    if indices is None:
        return None
    return list(indices) if isinstance(indices, (list, tuple)) else [indices]


def sample_name(indices: Any, position: int) -> Any:
    """The index at a position of a batch, as the sampler named it."""
    try:
        return indices[position]
    except (TypeError, IndexError, KeyError):
        return indices
