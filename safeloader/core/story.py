"""What happened, kept in a bounded ring: errors show it (`story_lines`), and a dumped story replays in a test.

Exceptions, and batches that came whole in their message, are not kept (they may be large, and hold what should die): a
word stands for them. The core never looks inside them, so the story still replays to the same commands.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from safeloader.core import messages as m

if TYPE_CHECKING:
    from typing import Any

    from safeloader.core.state import DatasetSnapshot, State

__all__ = ["Entry", "Story"]

_HEAVY = {
    m.TaskLoaded: "batch",
    m.Deliver: "batch",
    m.TaskRaised: "error",
    m.DeliverError: "error",
    m.StartRefused: "error",
    m.GiveUp: "error",
    m.WorkerMarked: "content",
    m.WorkerResumed: "content",
}
_MAYBE_HEAVY = {*_HEAVY, m.HostWorker, m.GiveState, m.EpochResumed}


class Entry(NamedTuple):
    """One event, when it was told, and what was decided on it."""

    now: float
    event: m.Event
    commands: tuple[m.Command, ...]


class Story:
    """A ring of the last ``length`` events and what was decided on each.

    A batch that lies in its lease is not heavy: what is kept only says where it lies.
    """

    __slots__ = ("_ring", "total")

    def __init__(self, length: int) -> None:
        self._ring: deque[tuple[float, m.Event, list[m.Command]]] = deque(maxlen=length)
        self.total = 0

    def add(self, now: float, event: m.Event, commands: list[m.Command]) -> None:
        self.total += 1
        if type(event) in _MAYBE_HEAVY and not (type(event) is m.TaskLoaded and event.nbytes):
            event = _lightened(event)
        for command in commands:
            if type(command) is m.Deliver and command.lease is not None:
                continue
            if type(command) in _MAYBE_HEAVY and _lightened(command) is not command:
                commands = [_lightened(c) for c in commands]
                break
        self._ring.append((now, event, commands))

    @property
    def complete(self) -> bool:
        """True while nothing has been forgotten: then the story replays from the first event."""
        return self.total == len(self._ring)

    def entries(self) -> list[Entry]:
        """All that is remembered, oldest first."""
        return [Entry(now, event, tuple(commands)) for now, event, commands in self._ring]


def _lightened(message: Any) -> Any:
    """The same message, with a word for what may be large. None stays None: the core tells these two apart."""
    kind = type(message)
    if kind is m.HostWorker:
        heavy = message.mark is not None or message.digests
        return message._replace(mark=_words_for(message.mark), digests=b"") if heavy else message
    if kind is m.GiveState or kind is m.EpochResumed:
        return message._replace(state=_without_contents(message.state)) if message.state is not None else message
    if kind not in _HEAVY:
        return message
    if kind is m.Deliver and message.lease is not None:  # beside one that is heavy
        return message
    field = _HEAVY[kind]
    return message if getattr(message, field) is None else message._replace(**{field: field})


def _words_for(mark: DatasetSnapshot | None) -> DatasetSnapshot | None:
    return mark if mark is None or mark.content is None else mark._replace(content="content")


def _without_contents(state: State) -> State:
    return state._replace(workers=tuple([w._replace(mark=_words_for(w.mark)) for w in state.workers]))
