"""The shadow itself: a fork of a process that sleeps until it is to make a successor, or the trainer lets go of it.

It speaks as the fork server does (``start.forked``): a request comes with a link, a channel and a pipe for stacks;
it tells of the birth on the link, and of the end, since the successor is its child.
"""

from __future__ import annotations

import marshal
import os
import random
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.runtime import system
from safeloader.runtime.child import birth, user_forks
from safeloader.runtime.shadow.fork_fitness import NotFit, Own, ReopenedFiles
from safeloader.runtime.start.forked import BORN, EXITED, REFUSED, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Before", "Succession", "sleep"]


_MESSAGE = 1 << 12
_KILLED_FIRST = "1000"


class Succession(NamedTuple):
    """What a successor is to be."""

    number: int
    channel: int


class Before(NamedTuple):
    """What forking changes and a successor puts back."""

    signals: Iterable[int]  # those that were blocked
    put_generators_back: Callable[[], None]
    memory_score: str

    @classmethod
    def now(cls) -> Before:
        """Also blocks all signals: what is meant for the process must not reach its copy."""
        for stream in (sys.stdout, sys.stderr):  # else both would write what is waiting there
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return cls(signals, _keep_generators(), _score())

    def let_signals_in(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.signals)


def sleep(
    control: socket.socket, files: ReopenedFiles, own: Own, before: Before, others: list[socket.socket]
) -> Succession:
    """In the fork. Returns in a successor, and only there.

    Args:
        control: where the trainer speaks.
        files: this process's own.
        own: descriptors of safeloader.
        before: what a successor puts back.
        others: what is the other process's.
    """
    try:
        os.setsid()
        for end in others:
            end.close()
        files.take_up()
        _protect()
        _be_killed_first()
        return _Sleeper(control, own, before).serve()
    except BaseException:
        os._exit(1)


def _protect() -> None:
    """End with the trainer."""
    lifeline = birth.stacks_and_lifeline[1]
    if not system.die_with(lifeline) or birth.ended(lifeline):
        os._exit(0)


class _Sleeper:
    def __init__(self, control: socket.socket, own: Own, before: Before) -> None:
        self._control = control
        self._own = own
        self._before = before
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, birth.stacks_and_lifeline[0], inheritable=False)
        os.close(nowhere)

    def serve(self) -> Succession:
        asked = True
        while asked or self._children:
            for descriptor, _ in self._poll.poll():
                if descriptor != self._control.fileno():
                    self._reap(descriptor)
                    continue
                data, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE, 3, socket.MSG_CMSG_CLOEXEC)
                if not data:  # nobody needs it any more, but its children's end is to be told
                    self._poll.unregister(self._control)
                    asked = False
                    continue
                (number,) = marshal.loads(data)
                if self._fork(*descriptors):
                    return Succession(number, descriptors[1])
        os._exit(0)

    def _fork(self, link: int, channel: int, stacks: int) -> bool:
        """Make a successor. True in it."""
        end = socket.socket(fileno=link)
        try:
            files = ReopenedFiles(self._own_now({link, channel, stacks}))
            with user_forks.own():
                pid = os.fork()
        except (OSError, NotFit) as error:
            tell(end, (REFUSED, f"its shadow cannot fork: {error}", {}, []))
            os.close(channel)
            os.close(stacks)
            end.close()
            return False
        if pid == 0:
            self._succeed(files, end, stacks)
            return True
        files.close()
        os.close(channel)
        os.close(stacks)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, end
        self._poll.register(pidfd, select.POLLIN)
        tell(end, (BORN, pid), pidfd)
        return False

    def _own_now(self, besides: set[int]) -> Own:
        """What a successor need not have of its own: it closes it."""
        ends = set(self._children) | {end.fileno() for _, end in self._children.values()}
        return self._own.adding({self._control.fileno(), *ends, *besides})

    def _reap(self, pidfd: int) -> None:
        pid, link = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        tell(link, (EXITED, os.waitstatus_to_exitcode(status)))
        self._poll.unregister(pidfd)
        os.close(pidfd)
        link.close()

    def _succeed(self, files: ReopenedFiles, end: socket.socket, stacks: int) -> None:
        os.setsid()
        os.dup2(stacks, birth.stacks_and_lifeline[0], inheritable=False)
        os.set_blocking(stacks, False)
        os.close(stacks)
        files.take_up()
        end.close()
        self._control.close()
        for pidfd, (_, link) in self._children.items():
            os.close(pidfd)
            link.close()
        _protect()
        _set_score(self._before.memory_score)
        self._before.put_generators_back()
        system.disregard(signal.SIGINT, signal.SIGTERM)
        self._before.let_signals_in()


def _score() -> str:
    try:
        with open("/proc/self/oom_score_adj") as file:
            return file.read()
    except OSError:
        return ""


def _set_score(score: str) -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(score)
    except OSError:
        pass


def _be_killed_first() -> None:
    _set_score(_KILLED_FIRST)


def _keep_generators() -> Callable[[], None]:
    """Generators that are seeded anew in every fork, by those who made them; what is returned puts them back."""
    states: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(random.setstate, (random.getstate(),))]
    numba: Any = sys.modules.get("numba._helperlib")  # of compiled functions; numba/_random.c, rnd_implicit_init
    try:
        for where in (numba.rnd_get_np_state_ptr(), numba.rnd_get_py_state_ptr()) if numba is not None else ():
            states.append((numba.rnd_set_state, (where, numba.rnd_get_state(where))))
    except (AttributeError, TypeError):  # another release keeps them elsewhere
        pass

    def put_back() -> None:
        for put, given in states:
            put(*given)

    return put_back
