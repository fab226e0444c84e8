"""Programs of several ranks, run by torchrun or by hand, and watched from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds until what a test waits for must have come, on a busy machine."""


class Program:
    """A program in a session of its own, whose lines can be waited for; killed with all it started at the end.

    Args:
        command: its command line.
        environment: variables besides those of this process.
    """

    def __init__(self, command: list[str], **environment: str) -> None:
        self._running = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        self.pid = self._running.pid
        self.lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

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
        try:  # torchrun's ranks have sessions of their own
            own = [*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)]
        except psutil.NoSuchProcess:
            own = []
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._running.wait()
        self._reader.join(10)


def torchrun(module: str, *arguments: str, ranks: int, **environment: str) -> Program:
    """A program of several ranks on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return Program([*command, "-m", module, *arguments], **environment)
