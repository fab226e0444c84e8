"""What ends an epoch or the loader, raised as an error: what a dataset raised, a bad sample, too many faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from safeloader.core.messages import INLINE
from safeloader.core.story_lines import story_lines
from safeloader.errors import BadSampleError, DivergenceError, NotCarriableError, SafeLoaderError, StartError
from safeloader.notes import add_note
from safeloader.observe.events import LOSSES
from safeloader.observe.messages import line_for, replay_in_words
from safeloader.observe.torch_words import in_torchs_words
from safeloader.runtime import by_value
from safeloader.runtime.trainer.missing_paths import on_host
from safeloader.torch_private import wrap_exception

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.core import messages as m
    from safeloader.observe.recorder import Recorder
    from safeloader.runtime.trainer.journal import Journal

__all__ = ["ErrorRaiser"]

_KEPT = 1000  # notes of batches that were never asked for


class ErrorRaiser:
    """Makes the errors of one driver.

    Args:
        journal: has the books that they are about.
        recorder: keeps the report that they carry.
        pid_of: the pid behind a process's number in the books, or None.
    """

    def __init__(self, journal: Journal, recorder: Recorder, pid_of: Callable[[int], int | None]) -> None:
        self._journal = journal
        self._recorder = recorder
        self._pid_of = pid_of
        self._notes: dict[int, str] = {}  # by task: where its error was raised
        self._hosts: dict[int, str] = {}  # the same: on which other host

    def note(self, task: int, text: str) -> None:
        """Where the error of a task was raised; the error carries it as a note when it is raised here."""
        _keep(self._notes, task, text)

    def note_host(self, task: int, host: str) -> None:
        """On which other host that was."""
        _keep(self._hosts, task, host)

    def raise_error(self, task: int, worker: int, error: Any, classes: list[type]) -> NoReturn:
        """Raise what the dataset raised as torch would, wherever that was; with its note."""
        try:
            if isinstance(error, SafeLoaderError):
                raise error
            if isinstance(error, Exception):  # raised in the trainer: the error that a process would have sent
                wrapper: Any = wrap_exception(error, f"in DataLoader worker process {worker}")
                try:
                    wrapper.reraise()
                except Exception as raised:
                    raise raised from error
            by_value.loads(error, classes).reraise()
        except Exception as raised:
            add_note(raised, self._notes.get(task, ""))
            if task in self._hosts:
                add_note(raised, on_host(self._hosts[task], str(raised)))
            raise
        raise AssertionError("reraise returned")

    def raise_bad_sample(self, c: m.DeliverBadSample) -> NoReturn:
        if c.unresolved:
            self._raise_unresolved(c)
        verb = {"hung": "hang", "stopped": "stop"}.get(c.cause, "kill")
        names = ", ".join(map(repr, c.indices[:8]))
        if not c.indices:
            what = f"the next samples of worker {c.worker} {verb} every process that loads them"
        elif len(c.indices) == 1:
            what = f"sample {names} {verb}s every process that loads it"
        else:
            what = f"samples {names} together {verb} every process that loads them"
        self._raise(self._bad_sample(c, what, self._advice(c)))

    def _raise_unresolved(self, c: m.DeliverBadSample) -> NoReturn:
        """It was in work when a process was lost, and no other can be had; another cause is possible."""
        names = ", ".join(map(repr, c.indices[:8]))
        what = f"the next samples of worker {c.worker} were"
        if c.indices:
            what = f"sample {names} was" if len(c.indices) == 1 else f"samples {names} were"
        what = f"{what} in work when a process was lost ({c.cause}), and no process can be started to try again"
        hint = (
            "what may have ended a process is not loaded in the main process, which loads all the rest; "
            'loader.report() says why none starts. To leave the sample out and go on: Policy(on_bad_sample="skip")'
        )
        self._raise(self._bad_sample(c, what, hint, code="SL207"))

    def _bad_sample(self, c: m.DeliverBadSample, what: str, hint: str, code: str = "") -> BadSampleError:
        return BadSampleError(
            what,
            indices=c.indices,
            cause=c.cause,
            stack=c.stack,
            batch=c.batch,
            worker=c.worker,
            where=f"{self._recorder.name}, epoch {c.epoch}",
            attempt=f"{c.attempts} of {c.attempts}",
            hint=hint,
            story=self._story(c.task),
            code=code,
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
            story=self._story(task),
            code="SL201",
        ) from error

    def raise_given_up(self, c: m.GiveUp) -> NoReturn:
        if c.cause == "refused":
            wrapper = by_value.loads(c.error)
            if isinstance(wrapper, tuple):  # something of the dataset cannot be opened again
                what, path, hint = wrapper
                self._raise(NotCarriableError(what, path=path, where=self._recorder.name, hint=hint))
            text = str(wrapper.exc_msg).strip()
            self._raise(
                StartError(
                    f"a worker process cannot rebuild the dataset or its functions: {text.splitlines()[-1]}",
                    where=self._recorder.name,
                    hint="what is pickled by name must be importable in a fresh Python with the same sys.path; "
                    f"the process said:\n{text}",
                    code="SL205",
                )
            )
        if c.cause == "diverged":
            self._raise_diverged(c)
        report = self._recorder.report()
        last = report.faults[-1] if report.faults else None
        lines = [line_for(fault).partition(": ")[2] for fault in report.faults[-10:]]
        reason = lines[-1].partition("; ")[0] if lines else c.detail
        what = {
            "setup": "setting up a worker kills or hangs every process that tries",
            "starts": "a process was lost while it set up a worker, and no other can be started",
            "restarts": "too many faults, and policy allows no fewer processes",
        }[c.cause]
        stack = next((fault.stack for fault in reversed(report.faults) if fault.stack), None)
        setting_up = c.cause in ("setup", "starts")
        hint = "loader.report() lists every fault; "
        hint += "look at worker_init_fn and at what the dataset does when it is unpickled" if setting_up else (
            'Policy(fallback="inline") goes on with fewer processes, or with none'
        )  # fmt: skip
        if stack:
            hint += f"\nlast stack:\n{stack}"
        code = {"setup": "SL203", "starts": "SL204", "restarts": "SL202"}[c.cause]
        kind = StartError if setting_up or (last is not None and last.cause == "failed_start") else SafeLoaderError
        self._raise(kind(f"{what} (the last: {reason})", where=self._recorder.name, hint=hint, story=lines, code=code))

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
        error.report = report = self._recorder.report()
        lost = [fault for fault in report.faults if fault.cause in LOSSES]
        if lost and not isinstance(error, DivergenceError):
            timeout = self._journal.supervisor.settings.batch_timeout
            error.in_torch = in_torchs_words(lost[-1], timeout if isinstance(timeout, (int, float)) else None)
        raise error

    def _story(self, task: int) -> list[str]:
        return story_lines(self._journal.supervisor.story.entries(), task, self._process)

    def _process(self, number: int) -> str:
        pid = self._pid_of(number)
        return "the main process" if number == INLINE else "a process" if pid is None else f"process {pid}"


def _keep(notes: dict[int, str], task: int, text: str) -> None:
    notes[task] = text
    if len(notes) > _KEPT:
        del notes[next(iter(notes))]
