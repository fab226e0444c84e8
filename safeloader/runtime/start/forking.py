"""A process that does nothing but fork others on request, and tell how they ended: a fork server, or a template.

Before each fork it looks at itself again. It reaps its children; the trainer sees the end of each itself, through a
pidfd that it gets with the pid.
"""

from __future__ import annotations

import marshal
import os
import select
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from safeloader.runtime.child import birth, process_main
from safeloader.runtime.start import bootstrap, fork_safety, phases, surroundings
from safeloader.runtime.start.forked import BORN, EXITED, REFUSED, tell

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Forking"]

_MESSAGE = 1 << 16
_MOST = 16  # descriptors in a request


class Forking:
    """Forks processes.

    Args:
        control: where requests come from.
        lifeline: what processes inherit.
        mark: where it tells how far it is.

    Attributes:
        why: it must not fork, for this reason; "" if it may.
        stamps: by which changes of the files that it has imported are noticed.
    """

    def __init__(self, control: int, lifeline: int, mark: phases.PhaseMark) -> None:
        self.why = ""
        self.stamps: dict[str, tuple[int, int] | None] = {}
        self._mark = mark
        self._control = socket.socket(fileno=control)
        self._lifeline = lifeline
        self._own = set(fork_safety.descriptors())
        self._kept: set[int] = set()  # what its processes keep open
        self._harm: dict[str, str] = {}  # modules that do more than define things
        self._failed: dict[str, str] = {}  # modules that cannot be imported, and why
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
        self._poll = select.poll()

    def unfit(self, besides: Collection[int] = ()) -> str:
        """Why this must not be forked; "" if it may. ``besides`` are descriptors that may be open, too."""
        count = fork_safety.threads()
        return f"it has {count} threads" if count > 1 else fork_safety.strangers(self._own.union(besides))

    def be_template(self, control: int, lifeline: int, mark: phases.PhaseMark) -> NoReturn:
        """In a child that is to read a dataset, and fork others."""
        raise NotImplementedError

    # ------------------------------------------------------------ requests

    def serve(self) -> NoReturn:
        """Fork and reap."""
        self._poll.register(self._control, select.POLLIN)
        self._mark(phases.SERVES)
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._control.fileno():
                    self._request()
                else:
                    self._reap(descriptor)

    def _request(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE, _MOST, socket.MSG_CMSG_CLOEXEC)
        if not data:  # the trainer let go of it; whoever still has children of it would not
            os._exit(0)
        link = socket.socket(fileno=descriptors.pop(0))
        try:
            if birth.ended(link) or not self._may_fork(link, descriptors):
                link.close()
                return
            pid = self._fork(link)
            if pid == 0:
                told, channel, stacks, *streams = descriptors
                self._be_born(told, channel, stacks, dict(zip(marshal.loads(data), streams, strict=True)))
            if pid > 0:
                self._born(pid, link)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    @staticmethod
    def _fork(link: socket.socket) -> int:
        try:
            return os.fork()
        except OSError as error:
            tell(link, (REFUSED, f"it cannot fork: {error}", {}, []))
            link.close()
            return -1

    def _may_fork(self, link: socket.socket, descriptors: list[int]) -> bool:
        """Look once more; if something is wrong, say what."""
        files = [path for path, seen in self.stamps.items() if fork_safety.stamp(path) != seen]
        why = self.why or self.unfit({link.fileno(), *descriptors})
        if files or why or self._harm:
            tell(link, (REFUSED, why, self._harm, files))
            return False
        return True

    # ------------------------------------------------------------ children

    def _born(self, pid: int, link: socket.socket) -> None:
        pidfd = os.pidfd_open(pid)  # it cannot be another's: nobody but us reaps it
        self._children[pidfd] = pid, link
        self._own.update((pidfd, link.fileno()))
        self._poll.register(pidfd, select.POLLIN)
        tell(link, (BORN, pid, self._failed), pidfd)

    def _reap(self, pidfd: int) -> None:
        pid, link = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        tell(link, (EXITED, os.waitstatus_to_exitcode(status)))
        self._own -= {pidfd, link.fileno()}
        self._poll.unregister(pidfd)
        os.close(pidfd)
        link.close()

    def _be_born(self, told: int, channel: int, stacks: int, streams: dict[int, int]) -> NoReturn:
        """In the child: let go of everything that is the parent's, and be a process like any other."""
        code = 1
        try:
            os.setsid()
            surroundings.imported()
            for number, stream in streams.items():
                os.dup2(stream, number)
            self._let_go({told, channel, stacks, self._lifeline, self._mark.file, *self._kept})
            row, modules, template = bootstrap.read(told)
            process_main.protect(stacks, self._lifeline)
            mark = phases.PhaseMark(self._mark.file, row)
            surroundings.restore_signals()
            numpy: Any = sys.modules["numpy"]
            numpy.random.seed()  # as in a fresh interpreter; Python's own generator does so by itself
            if template:
                self.be_template(channel, self._lifeline, mark)
            process_main.work(channel, stacks, modules, mark)
        except BaseException:
            os.write(stacks, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def _let_go(self, keep: set[int]) -> None:
        """Close what is open. The sockets are detached, so that none closes a number that is another's by then."""
        self._control.detach()
        for _, link in self._children.values():
            link.detach()
        for number in fork_safety.descriptors():
            if number > 2 and number not in keep:
                try:
                    os.close(number)
                except OSError:
                    pass
