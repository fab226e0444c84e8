"""The story of a task in plain lines, for people: what was sent where, what came of it, with seconds before the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.core import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safeloader.core.story import Entry

__all__ = ["story_lines"]

_CAUSES = {
    "died": "died", "oom": "was killed because memory is short", "hung": "hung", "stopped": "was found stopped",
    "failed_start": "did not start", "raised": "raised an error", "unpicklable": "loaded what cannot be sent",
}  # fmt: skip
_VERDICTS = {
    "again": "the batch is loaded again",
    "searched": "parts of the batch are loaded, to find the sample",
    "skipped": "the sample is left out",
    "raised": "BadSampleError is raised at its turn",
    "ended": "the loader ends",
}


def story_lines(entries: list[Entry], task: int, process: Callable[[int], str], last: int = 20) -> list[str]:
    """The lines about one task, oldest first.

    Args:
        entries: what the story remembers.
        task: the task's number.
        process: a name for the process with this number in the books.
        last: how many lines at most.
    """
    lines = []
    for entry in entries:
        for message in (entry.event, *entry.commands):
            text = _text(message, process) if getattr(message, "task", None) == task else ""
            if text:
                lines.append(f"{entry.now - entries[-1].now:+9.3f} s  {text}")
    return lines[-last:]


def _text(message: Any, process: Callable[[int], str]) -> str:
    words = _WORDS.get(type(message))
    return "" if words is None else words(message, process)


def _sent(c: m.SendTask, process: Callable[[int], str]) -> str:
    without = f", without {len(c.skip)} samples that are left out" if c.skip else ""
    return f"the batch is sent to {process(c.process)}, for worker {c.worker}{without}"


def _inline(c: m.LoadInline, process: Callable[[int], str]) -> str:
    return f"the main process begins to load the batch, for worker {c.worker}"


def _probe(c: m.SendProbe, process: Callable[[int], str]) -> str:
    return f"{len(c.positions)} samples of the batch are sent to {process(c.process)}, to see whether they do harm"


def _probed(e: m.ProbeFinished, process: Callable[[int], str]) -> str:
    return f"{process(e.process)} has loaded them without harm"


def _loaded(e: m.TaskLoaded, process: Callable[[int], str]) -> str:
    return f"{process(e.process)} has loaded the batch"


def _fault(c: m.ReportFault, process: Callable[[int], str]) -> str:
    detail = f" ({c.detail})" if c.detail else ""
    silent = f", after {c.stalled:.1f} s without progress" if c.cause == "hung" and c.stalled else ""
    attempt = f", attempt {c.attempts}" if c.attempts > 1 else ""
    then = f": {_VERDICTS[c.verdict]}" if c.verdict in _VERDICTS else ""
    return f"{process(c.process)} {_CAUSES.get(c.cause, c.cause)}{detail}{silent}{attempt}{then}"


_WORDS: dict[type, Callable[[Any, Callable[[int], str]], str]] = {
    m.SendTask: _sent,
    m.LoadInline: _inline,
    m.SendProbe: _probe,
    m.ProbeFinished: _probed,
    m.TaskLoaded: _loaded,
    m.ReportFault: _fault,
}
