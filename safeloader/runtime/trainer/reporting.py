"""Puts the supervisor's reports into the words of the recorder, and its verdicts into errors."""

from __future__ import annotations

import warnings
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from safeloader import clock
from safeloader.errors import BadSampleError, DivergenceError, NotCarriableError, SafeLoaderError, StartError
from safeloader.observe.messages import replay_in_words
from safeloader.observe.report import Fault
from safeloader.runtime import by_value
from safeloader.runtime.trainer import source_changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.core import messages as m
    from safeloader.observe.recorder import Recorder
    from safeloader.runtime.pool.standbys import Loss
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.trainer.journal import Journal
    from safeloader.runtime.trainer.process_handle import ProcessHandle

__all__ = ["Reporter"]

_RECOVERABLE = ("died", "oom", "hung", "stopped", "failed_start")


class Reporter:
    """Speaks for one driver.

    Args:
        journal: has the books that are told of.
        way: how processes come to be.
        recorder: who keeps and tells it.
    """

    def __init__(self, journal: Journal, way: Launcher, recorder: Recorder) -> None:
        self._journal = journal
        self._way = way
        self._recorder = recorder
        self._pending: list[tuple[int, float, int]] = []  # fault, since when, the batch it held up
        self._epoch_started_with = recorder.batches
        source_changes.remember()

    # ------------------------------------------------------------ reports

    def started(self, process: ProcessHandle) -> None:
        if changed := [*source_changes.changed(), *self._way.outdated]:
            self._recorder.code_changed(changed)
        books = self._journal.supervisor.fleet.processes.get(process.number)
        workers = sorted(books.workers) if books is not None else []
        self._recorder.started(process.pid, workers, clock.now() - process.started_at)

    def differs(self, process: ProcessHandle, what: list[str]) -> None:
        """A process could not take over everything from the trainer."""
        self._recorder.differs(process.pid, what)

    def fault(self, c: m.ReportFault, pid: int | None) -> None:
        sample = None if c.sample is None else sample_name(c.indices, c.sample)
        number = self._recorder.fault(
            Fault(
                time=0.0,
                loader="",
                cause=c.cause,
                worker=c.worker,
                process=pid,
                epoch=c.epoch,
                batch=c.batch,
                indices=_listed(c.indices),
                sample=sample,
                detail=c.detail,
                stack=c.stack,
                attempts=c.attempts,
                action=c.action,
                stalled=c.stalled or None,
                again=c.again,
            )
        )
        if c.cause in _RECOVERABLE:
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

    def spawned_instead(self) -> None:
        """A fork server was asked for, and there is none: say why.

        Raises:
            StartError: policy is strict.
        """
        reasons, self._way.complaints[:] = list(self._way.complaints), []
        for why in reasons:
            text = f"{self._recorder.name}: no fork server ({why}); processes are spawned instead"
            if self._way.strict:
                raise StartError(text, hint='give start_method="spawn", or unset SAFELOADER_STRICT')
            warnings.warn(text, UserWarning, stacklevel=7)

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
        why = f"{c.cause}; no process can be had to try it again" if c.unresolved else c.cause
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
        books, tracer = self._journal.supervisor.tasks.get(task), self._recorder.tracer
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

    # ------------------------------------------------------------ errors

    def raise_error(self, error: Any, classes: list[type]) -> NoReturn:
        """Raise what the dataset raised: as torch would, or itself if it was raised in the trainer."""
        if isinstance(error, BaseException):
            raise error
        by_value.loads(error, classes).reraise()
        raise AssertionError("reraise returned")

    def raise_bad_sample(self, c: m.DeliverBadSample) -> NoReturn:
        if c.unresolved:
            self._raise(self._unresolved(c))
        deed = {"hung": "hang", "stopped": "stop"}.get(c.cause, "kill")
        names = ", ".join(map(repr, c.indices[:8]))
        if not c.indices:
            what = f"the next samples of worker {c.worker} {deed} every process that loads them"
        elif len(c.indices) == 1:
            what = f"sample {names} {deed}s every process that loads it"
        else:
            what = f"samples {names} together {deed} every process that loads them"
        error = BadSampleError(
            what,
            indices=c.indices,
            cause=c.cause,
            stack=c.stack,
            batch=c.batch,
            worker=c.worker,
            where=f"{self._recorder.name}, epoch {c.epoch}",
            attempt=f"{c.attempts} of {c.attempts}",
            hint=self._advice(c),
            story=self._journal.supervisor.story.of(task=c.task),
        )
        self._raise(error)

    def _unresolved(self, c: m.DeliverBadSample) -> BadSampleError:
        """It was in work when a process was lost, and no other can be had; it may be innocent."""
        names = ", ".join(map(repr, c.indices[:8]))
        what = f"the next samples of worker {c.worker} were"
        if c.indices:
            what = f"sample {names} was" if len(c.indices) == 1 else f"samples {names} were"
        return BadSampleError(
            f"{what} in work when a process was lost ({c.cause}), and no process can be had to try again",
            indices=c.indices,
            cause=c.cause,
            stack=c.stack,
            batch=c.batch,
            worker=c.worker,
            where=f"{self._recorder.name}, epoch {c.epoch}",
            attempt=f"{c.attempts} of {c.attempts}",
            hint="what hurt a process is not loaded in the main process, which loads all the rest; loader.report() "
            'says why no process can be had. To leave the sample out and go on: Policy(on_bad_sample="skip")',
            story=self._journal.supervisor.story.of(task=c.task),
        )

    @staticmethod
    def _advice(c: m.DeliverBadSample) -> str:
        if not c.indices:
            return "the dataset is iterable, so its samples cannot be named or skipped: look at the stack"
        try_alone = f"load dataset[{c.indices[0]!r}] alone in a fresh Python; "
        slow = "if it is only slow, raise batch_timeout; " if c.cause == "hung" else ""
        return f'{try_alone}{slow}to leave it out and go on: Policy(on_bad_sample="skip")'

    def raise_undecodable(self, task: int, error: Exception) -> NoReturn:
        """A batch was loaded, but the trainer cannot make its objects."""
        raise SafeLoaderError(
            f"a batch arrived that the main process cannot rebuild: {type(error).__name__}: {error}",
            where=self._recorder.name,
            hint="its classes must be importable in the main process too; return tensors, arrays or plain values",
            story=self._journal.supervisor.story.of(task=task),
        ) from error

    def raise_given_up(self, c: m.GiveUp) -> NoReturn:
        story = self._journal.supervisor.story
        if c.cause == "refused":
            wrapper = by_value.loads(c.error)
            if isinstance(wrapper, tuple):
                what, path, hint = wrapper
                self._raise(NotCarriableError(what, path=path, where=self._recorder.name, hint=hint))
            text = str(wrapper.exc_msg).strip()
            self._raise(
                StartError(
                    f"a worker process cannot rebuild the dataset or its functions: {text.splitlines()[-1]}",
                    where=self._recorder.name,
                    hint="what is pickled by name must be importable in a fresh Python with the same sys.path; "
                    f"the process said:\n{text}",
                )
            )
        if c.cause == "diverged":
            self._raise_diverged(c)
        what = {
            "setup": "setting up a worker kills or hangs every process that tries",
            "starts": "a process was lost while it set a worker up, and no other can be had to try again "
            f"(the last: {c.detail})",
            "restarts": f"too many faults, and policy allows no fewer processes (the last: {c.detail})",
        }[c.cause]
        stack = next((f.stack for f in reversed(self._recorder.report().faults) if f.stack), None)
        setting_up = c.cause in ("setup", "starts")
        hint = "loader.report() lists every fault; "
        hint += "look at worker_init_fn and at what the dataset does when it is unpickled" if setting_up else (
            'Policy(fallback="inline") goes on with fewer processes, or with none'
        )  # fmt: skip
        if stack:
            hint += f"\nlast stack:\n{stack}"
        kind = StartError if setting_up or c.detail == "failed_start" else SafeLoaderError
        entries = story.entries()
        last = [e for e in entries if type(e.event).__name__ in ("ProcessExited", "StacksCaptured")][-10:]
        lines = [f"{e.now - entries[-1].now:+9.3f} s  {type(e.event).__name__}{_facts(e.event)}" for e in last]
        self._raise(kind(what, where=self._recorder.name, hint=hint, story=lines))

    def _raise_diverged(self, c: m.GiveUp) -> NoReturn:
        said: m.ReportReplay = c.error  # type: ignore[assignment]
        error = DivergenceError(
            replay_in_words(said.worker, said.outcome, said.source, said.at, said.of, said.detail),
            worker=said.worker,
            at=said.at,
            of=said.of,
            how=said.outcome,
            where=f"{self._recorder.name}, epoch {said.epoch}",
            hint='give the dataset a seed, so that it reads the same twice; Policy(on_divergence="warn") goes on with '
            "what comes, and samples may then come twice or never",
        )
        self._raise(error)

    def _raise(self, error: SafeLoaderError) -> NoReturn:
        error.report = self._recorder.report()
        raise error


def _facts(event: Any) -> str:
    return f"(process={event.process}, {getattr(event, 'detail', 'stacks')})"


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
