"""The supervisor's books, kept so that an exception between any two instructions of them loses nothing.

::

    inbox ──move──▶ taken ──▶ told (events, time) ──supervisor──▶ answers (commands) ──▶ carried out, one by one

An exception can arrive anywhere (see ``shield``). Every arrow is one step: something moves by a single call into C, or
is noted by a single store, after it was done. So whoever comes next sees how far the last one came, and goes on there.
Only the supervisor changes much at a time. It is pure, so what it was told since a copy was made of it makes it again:
if an exception breaks it off, the copy is told everything once more.
A command may be begun twice, if the first time was broken off: it is told so.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader import clock
from safeloader.core.duplicate import duplicate

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.core import messages as m
    from safeloader.core.supervisor import Supervisor
    from safeloader.runtime.trainer.process_handle import ProcessHandle
    from safeloader.runtime.trainer.shield import Shield

__all__ = ["ArrivedEvents", "Journal", "Key"]

_LONG = 256
"""Events after which the supervisor is copied anew. What is kept until then is the fewer objects for Python's garbage
collector, which looks for more of them the more there are: ten times as long a page costs more time than the copies."""

Key = tuple[int, int]
"""A command: which answer it is in, and where there. Later ones are greater."""


class ArrivedEvents(NamedTuple):
    """A message of a process. ``number`` counts those of its channel."""

    process: ProcessHandle
    number: int
    message: tuple[Any, ...]


class _Produced(NamedTuple):
    """An event that carrying out a command has led to."""

    key: Key
    event: m.Event


class _Page:
    """What happened since the supervisor was copied."""

    def __init__(self, base: Supervisor, number: int) -> None:
        self.base = base
        self.number = number  # of the first answer
        self.taken: list[Any] = []  # None, once seen to
        self.told: list[tuple[m.Event | list[m.Event], float]] = []  # a list of any number but one
        self.begun = 0  # how many the supervisor was told of
        self.answers: list[list[m.Command] | None] = []  # None, once carried out
        self.cursor = (0, 0)  # answer, command: the next one to be carried out
        self.tried: Key | None = None  # the command that was begun last


class Journal:
    """Tells one supervisor what happened, and has its commands carried out.

    Args:
        supervisor: it, before its first event.
        shield: does what must not be broken off.
    """

    def __init__(self, supervisor: Supervisor, shield: Shield) -> None:
        self.supervisor = supervisor
        self.inbox: deque[Any] = deque()
        self._shield = shield
        self._page = _Page(duplicate(supervisor), 0)

    def connect(
        self, events: Callable[[ArrivedEvents], list[m.Event]], execute: Callable[[Any, Key, bool], None]
    ) -> None:
        """Before anything is told.

        Args:
            events: what a message means.
            execute: carries out a command; whether it was begun before is said.
        """
        self._events, self._execute = events, execute

    @property
    def torn(self) -> bool:
        """True while the supervisor is at work, or was broken off."""
        return self._page.begun > len(self._page.answers)

    def close(self) -> None:
        """Nothing is told any more: let go of who would hear it, and of processes that told something."""
        del self._events, self._execute
        for told in (self.inbox, self._page.taken, self._page.told):
            told.clear()

    def later(self, key: Key, event: m.Event, again: bool) -> None:
        """Tell what a command has led to; once, though it may be carried out again."""
        if not again or not any(_is_produced(item, key, type(event)) for item in list(self.inbox)):
            self.inbox.append(_Produced(key, event))

    def do_and_tell(self, act: Callable[[], m.Event]) -> None:
        """Do something to its end, and tell what came of it."""
        self._shield.do(lambda: self.inbox.append(act()))

    def run(self) -> None:
        """Until nothing is left to be told or carried out."""
        page = self._page
        if not len(page.taken) == len(page.told) == len(page.answers) == page.cursor[0]:
            self._go_on()
        while self.inbox:
            self._take()

    def _go_on(self) -> None:
        """Do to its end what an exception has broken off."""
        page = self._page
        if len(page.taken) == len(page.told) and page.taken and type(last := page.taken[-1]) is ArrivedEvents:
            last.process.channel.heard = last.number
        if page.begun > len(page.answers):
            self._shield.run(("rebuild", page.number + page.begun), self._rebuild)
            page = self._page
        self._work_off(page)

    def _take(self) -> None:
        """Tell the first of what waits, and carry out what follows."""
        page, inbox = self._page, self.inbox
        if len(page.told) >= _LONG:
            self._page = page = _Page(duplicate(self.supervisor), page.number + len(page.answers))
        if type(item := inbox[0]) is ArrivedEvents and item.number <= item.process.channel.heard:
            inbox.popleft()  # it was put there twice
            return
        page.taken.extend(map(deque.popleft, (inbox,)))  # one step: it is in the one or in the other
        self._work_off(page)

    def _work_off(self, page: _Page) -> None:
        """Take what was taken last through the steps that it has not gone through."""
        told, answers = page.told, page.answers
        if len(page.taken) > len(told):
            item = page.taken[-1]
            kind = type(item)
            if kind is ArrivedEvents:
                found = self._events(item)
                told.append((found[0] if len(found) == 1 else found, clock.now()))
                item.process.channel.heard = item.number
            else:
                told.append((item.event if kind is _Produced else item, clock.now()))
        if len(told) > len(answers):
            last, now = told[-1]  # type: Any, float
            page.begun = len(told)
            if type(last) is list:
                answers.append([command for event in last for command in self.supervisor.handle(event, now)])
            else:
                answers.append(self.supervisor.handle(last, now))
        at, step = page.cursor
        if at == len(answers):
            return
        number, commands = page.number + at, answers[at] or ()
        for command in commands[step:] if step else commands:
            key = number, step
            again, page.tried = page.tried == key, key
            self._execute(command, key, again)
            step += 1
            page.cursor = at, step
        page.cursor = at + 1, 0
        page.taken[at] = answers[at] = None

    def _rebuild(self) -> None:
        """The supervisor was broken off: make it again from its copy. Runs in the shield's thread."""
        page, broken = self._page, self.supervisor
        again = page.base
        story, again.story = broken.story, type(broken.story)(1)
        *before, (last, now) = page.told
        for earlier, time in before:
            for event in _all(earlier):
                again.handle(event, time)
        fresh = _Page(duplicate(again), page.number + len(before))
        events = _all(last)
        commands = [command for event in events for command in again.handle(event, now)]
        again.story = story
        story.add(now, events[-1], commands) if events else None
        delivered, again.schedule.delivered = again.schedule.delivered, broken.schedule.delivered
        again.schedule.delivered.clear()
        again.schedule.delivered.extend(delivered)
        fresh.taken.append(page.taken[-1])
        fresh.told.append((last, now))
        fresh.answers.append(commands)
        fresh.begun, fresh.tried = 1, page.tried
        self.supervisor, self._page = again, fresh


def _all(told: m.Event | list[m.Event]) -> list[m.Event]:
    return told if type(told) is list else [told]  # type: ignore[list-item]


def _is_produced(item: Any, key: Key, kind: type) -> bool:
    return isinstance(item, _Produced) and item.key == key and type(item.event) is kind
