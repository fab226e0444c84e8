"""Programs that tests start: in sessions of their own, watched from outside, killed with all that they started."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from typing_extensions import Self

from tests import warm

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0
"""Seconds until what a test waits for must have come, on a busy machine."""


def environment(**more: str) -> dict[str, str]:
    """This process's, with this checkout first on the path."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}


def kill(running: subprocess.Popen[str]) -> None:
    """Kill a program and all that it has started, also what lives in another session (torchrun's ranks do)."""
    try:
        own = [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]
    except psutil.NoSuchProcess:
        own = []
    for process in own:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


# ---------------------------------------------------------------- to the end


class Ended(NamedTuple):
    """How a program ended, and what it wrote."""

    code: int
    out: str
    err: str


def start(*command: str, cwd: Path = ROOT, fresh: bool = False, **variables: str) -> subprocess.Popen[str]:
    """Start this Python with a command line, as the leader of its own session; the caller ends it.

    Args:
        command: what follows the name of the interpreter.
        cwd: its working directory.
        fresh: an interpreter of its own, where the fact under test depends on how it started. Else it may be the fork of
            one that has imported torch.
        variables: of its environment, besides this process's.
    """
    given = environment(**variables)
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    warmed = None if fresh else warm.start(command, given, cwd=cwd, **streams)
    if warmed is not None:
        return warmed
    return subprocess.Popen([sys.executable, *command], cwd=cwd, env=given, start_new_session=True, **streams)


def end(running: subprocess.Popen[str], seconds: float) -> Ended:
    """Wait for a program, and for all that write where it writes.

    Raises:
        AssertionError: it takes longer. Names those that still live, with what they wait for; they are killed.
    """
    try:
        out, err = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        late = _writers(running)
        described = [_described(process) for process in late]  # while they live
        kill(running)
        for process in late:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        running.communicate()
        raise AssertionError(f"after {seconds:g} s these still write: {described}") from error
    except BaseException:
        kill(running)
        running.communicate()
        raise
    return Ended(running.returncode, out, err)


def _writers(running: subprocess.Popen[str]) -> list[psutil.Process]:
    """Who has the other end of a program's output open."""
    ends = {os.fstat(stream.fileno()).st_ino for stream in (running.stdout, running.stderr) if stream is not None}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if process.pid == os.getpid():
                continue
            folder = f"/proc/{process.pid}/fd"
            if any(os.stat(f"{folder}/{number}").st_ino in ends for number in (1, 2)):
                found.append(process)
    return found


def _described(process: psutil.Process) -> str:
    """A process that does not end: which one, and where in the kernel each of its threads waits."""
    try:
        waits = [path.joinpath("wchan").read_text() for path in Path(f"/proc/{process.pid}/task").iterdir()]
        return f"{process.pid}, child of {process.ppid()}, {process.status()} in {waits}: {' '.join(process.cmdline())}"
    except (OSError, psutil.Error) as error:
        return f"{process.pid}: {error}"


def run(*command: str, seconds: float = 90, cwd: Path = ROOT, fresh: bool = False, **variables: str) -> Ended:
    """Run this Python with a command line, to its end. ``fresh`` as in ``start``."""
    return end(start(*command, cwd=cwd, fresh=fresh, **variables), seconds)


# ---------------------------------------------------------------- scripts


def program(folder: Path, text: str, name: str = "train.py") -> Path:
    """Write a script."""
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def start_script(path: Path, *arguments: str, fresh: bool = False, **variables: str) -> subprocess.Popen[str]:
    """Start a script; its first lines can be read from ``stdout``. ``fresh`` as in ``start``."""
    return start("-u", str(path), *arguments, cwd=Path.cwd(), fresh=fresh, **variables)


def run_script(path: Path, *arguments: str, timeout: float = 90, fresh: bool = False, **variables: str) -> str:
    """Run a script to its end, which must be a good one. Returns what it printed. ``fresh`` as in ``start``."""
    code, out, err = end(start_script(path, *arguments, fresh=fresh, **variables), timeout)
    assert code == 0, f"exit code {code}\n{out}\n{err}"
    return out


# ---------------------------------------------------------------- several ranks

_TORCHRUN = ("-m", "torch.distributed.run")
_OF_RANKS = {
    "OMP_NUM_THREADS": "1",
    # torch's agent otherwise keeps its store over restarts, and gloo may find the addresses of ranks that are gone.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # What these programs show is not how processes start: forked ones cost no import of torch.
    "SAFELOADER_START_METHOD": "forkserver",
}


def start_torchrun(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start torchrun; the caller ends it."""
    return start(*_TORCHRUN, *arguments, **{**_OF_RANKS, **variables})


def run_torchrun(*arguments: str, ranks: int, seconds: float = 200, **variables: str) -> Ended:
    """Run a program of several ranks on this machine to its end."""
    standalone = ("--standalone", "--nproc-per-node", str(ranks))
    return end(start_torchrun(*standalone, *arguments, **variables), seconds)


class Program:
    """A program whose lines can be waited for; killed with all that it started at the end.

    Args:
        command: its command line.
        variables: of its environment, besides this process's.
    """

    def __init__(self, command: list[str], **variables: str) -> None:
        given = environment(**{**_OF_RANKS, **variables})
        streams: Any = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        warmed = warm.start(tuple(command[1:]), given, **streams) if command[0] == sys.executable else None
        self._running = warmed or subprocess.Popen(command, env=given, start_new_session=True, **streams)
        self.pid = self._running.pid
        self.lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @classmethod
    def of_ranks(cls, module: str, *arguments: str, ranks: int, **environment: str) -> Self:
        """A program of several ranks on this machine, by torchrun."""
        standalone = ["--standalone", "--nproc-per-node", str(ranks)]
        return cls([sys.executable, *_TORCHRUN, *standalone, "-m", module, *arguments], **environment)

    def _read(self) -> None:
        assert self._running.stdout is not None
        with self._running.stdout as lines:
            for line in lines:
                with self._changed:
                    self.lines.append(line.rstrip())
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def line(self, words: str, after: int = 0) -> str:
        """The first line with these words, once it has come."""

        def found() -> str | None:
            return next((line for line in self.lines[after:] if words in line), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, PATIENCE)
            line = found()
        assert line, f"{words!r} is not in:\n" + "\n".join(self.lines)
        return line

    def wait(self) -> int:
        """Its exit status."""
        status = self._running.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        kill(self._running)
        self._running.wait()
        self._reader.join(10)
