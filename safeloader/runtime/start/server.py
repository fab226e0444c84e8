"""The fork server: a fresh interpreter that imports what processes need, then forks one for each request.

It starts no thread, opens no file, loads no sample and never sees the dataset. What it imports is checked (``checks``);
a module that does more than define things is named to the trainer, which starts another server without it. Before
each fork it looks at itself again. It reaps its children and tells how they ended; the trainer sees the end itself,
through a pidfd that it gets with the pid.

It ends when the trainer kills it, or when the trainer is gone.
"""

from __future__ import annotations

import gc
import importlib
import marshal
import os
import select
import signal
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from safeloader.notes import in_one_line
from safeloader.runtime import system
from safeloader.runtime.child import birth, process_main
from safeloader.runtime.start import bootstrap, fork_safety, phases, surroundings
from safeloader.runtime.start.forked import BORN, EXITED, REFUSED

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["main"]

_MESSAGE = 1 << 16
_MOST = 16  # descriptors in a request

_BASE = ("torch", "torch.version", "numpy", "numpy.version")  # whose files stand for their packages


def main(control: int, lifeline: int, starts: int, row: int, modules: tuple[str, ...], accelerators: bool) -> NoReturn:
    """Serve until the trainer is gone.

    Args:
        control: inherited: where requests come from.
        lifeline: inherited.
        starts: inherited: where it tells how far it is, and its processes after it.
        row: its place there.
        modules: what to import besides what every process needs.
        accelerators: whether devices stay visible.
    """
    system.disregard(signal.SIGINT, signal.SIGTERM)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it has to reap, whether the trainer wants to or not
    why = "" if system.die_with(lifeline) else "the kernel would not end it with the trainer"
    if birth.ended(lifeline):
        os._exit(0)
    if not accelerators:
        process_main.hide_accelerators()
    server = ForkServerMain(control, lifeline, phases.PhaseMark(starts, row))
    server.why = why
    server.learn(modules)
    server.serve()


class ForkServerMain:
    """Forks processes.

    Args:
        control: where requests come from.
        lifeline: what processes inherit.
        mark: where it tells how far it is.
    """

    def __init__(self, control: int, lifeline: int, mark: phases.PhaseMark) -> None:
        self._mark = mark
        self.why = ""  # it must not fork
        self._control = socket.socket(fileno=control)
        self._lifeline = lifeline
        self._own = set(fork_safety.descriptors())
        self._threads = 1
        self._harm: dict[str, str] = {}
        self._failed: dict[str, str] = {}  # modules that cannot be imported, and why
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
        self._poll = select.poll()

    # ------------------------------------------------------------ beforehand

    def learn(self, modules: tuple[str, ...]) -> None:
        """Import; what does harm is remembered."""
        gc.disable()  # what nobody writes to is shared by all processes
        self._mark(phases.IMPORTS)
        process_main.learn()
        self._mark(phases.MODULES)
        self.why = self.why or self._unfit()
        base = {name for name in sys.modules if name.partition(".")[0] == "safeloader"}
        self._stamps = fork_safety.stamps(base.union(_BASE))
        gc.freeze()
        for name in modules:
            if name not in sys.modules and not self.why and _package(name) not in map(_package, self._harm):
                self._learn(name)
        sys.stdout.flush()

    def _learn(self, name: str) -> None:
        known = set(sys.modules)
        try:
            importlib.import_module(name)
            harm = ""
        except Exception as error:  # whoever needs it will be told so; the trainer tells of those that were named
            harm, self._failed[name] = "", in_one_line(error)
        except BaseException as error:
            harm = f"raises {type(error).__name__}"
        new = set(sys.modules) - known
        harm = harm or self._news() or fork_safety.fresh_generators(new)
        if harm:
            self._harm[name] = harm
        self._stamps.update(fork_safety.stamps(new))
        gc.freeze()

    def _news(self) -> str:
        """What an import left besides modules."""
        count, open_now = fork_safety.threads(), fork_safety.descriptors()
        harm = "starts a thread" if count > self._threads else fork_safety.strangers(self._own)
        self._threads = count
        self._own.update(open_now)
        return harm

    def _unfit(self, besides: Collection[int] = ()) -> str:
        """Why this must not be forked; "" if it may. ``besides`` are descriptors that may be open, too."""
        count = fork_safety.threads()
        return f"it has {count} threads" if count > 1 else fork_safety.strangers(self._own.union(besides))

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
            if _hung_up(link) or not self._may_fork(link, descriptors):
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
            _send(link, (REFUSED, f"it cannot fork: {error}", {}, []))
            link.close()
            return -1

    def _may_fork(self, link: socket.socket, descriptors: list[int]) -> bool:
        """Look once more; if something is wrong, say what."""
        files = [path for path, seen in self._stamps.items() if fork_safety.stamp(path) != seen]
        why = self.why or self._unfit({link.fileno(), *descriptors})
        if files or why or self._harm:
            _send(link, (REFUSED, why, self._harm, files))
            return False
        return True

    # ------------------------------------------------------------ children

    def _born(self, pid: int, link: socket.socket) -> None:
        pidfd = os.pidfd_open(pid)  # it cannot be another's: nobody but us reaps it
        self._children[pidfd] = pid, link
        self._own.update((pidfd, link.fileno()))
        self._poll.register(pidfd, select.POLLIN)
        _send(link, (BORN, pid, self._failed), pidfd)

    def _reap(self, pidfd: int) -> None:
        pid, link = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        _send(link, (EXITED, os.waitstatus_to_exitcode(status)))
        self._own -= {pidfd, link.fileno()}
        self._poll.unregister(pidfd)
        os.close(pidfd)
        link.close()

    def _be_born(self, told: int, channel: int, stacks: int, streams: dict[int, int]) -> NoReturn:
        """In the child: let go of everything that is the server's, and be a process like any other."""
        code = 1
        try:
            os.setsid()
            surroundings.imported()
            for number, stream in streams.items():
                os.dup2(stream, number)
            self._let_go({told, channel, stacks, self._lifeline, self._mark.file})
            row, modules = bootstrap.read(told)
            process_main.protect(stacks, self._lifeline)
            mark = phases.PhaseMark(self._mark.file, row)
            surroundings.restore_signals()
            numpy: Any = sys.modules["numpy"]
            numpy.random.seed()  # as in a fresh interpreter; Python's own generator does so by itself
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


def _package(name: str) -> str:
    """The package to which a module belongs: where one of its modules does harm, most of them lead there."""
    return name.partition(".")[0]


def _hung_up(link: socket.socket) -> bool:
    poller = select.poll()
    poller.register(link, 0)
    return bool(poller.poll(0))


def _send(link: socket.socket, what: tuple[Any, ...], *descriptors: int) -> None:
    """Tell the trainer; one that does not want to hear of it has closed its end."""
    try:
        socket.send_fds(link, [marshal.dumps(what)], descriptors)
    except OSError:
        pass
