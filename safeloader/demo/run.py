"""The demonstration: its programs started, watched and ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Run", "demo", "watch"]

EPOCHS = 3
FAULTS = "kill:1:5,hang:2:4,stop:3:4"
STANDS_STILL = 8.0  # seconds without a batch, after a fault, until a run of torch counts as hung
LIMIT = 120.0  # seconds that any run may take


@dataclass
class Run:
    """One training run, as it was told.

    Attributes:
        title: For people.
        loader: "torch" or "safeloader".
        faults: Its plan, as `safeloader.demo.train` takes it.
        epochs: How many.
        stands_still: Seconds without a batch after a fault that end it; None: only its end does.
        due: Batches of all epochs; 0 until it is known.
        batches: When each batch came, in seconds since the first one.
        struck: When which fault was made, likewise.
        seconds: When the program ended, likewise.
        ended: None until it has ended; then "finished", an error, or how it stood still.
        digests: Of batches, weights and generators, if it finished.
        accuracy: That of the last epoch so far.
        report: What safeloader's report said.
    """

    title: str
    loader: str
    faults: str = ""
    epochs: int = EPOCHS
    stands_still: float | None = None
    due: int = 0
    batches: list[float] = field(default_factory=list)
    struck: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    ended: str | None = None
    digests: dict[str, str] = field(default_factory=dict)
    accuracy: float = 0.0
    report: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether it came to its end, with all batches."""
        return self.ended == "finished" and len(self.batches) == self.due > 0


class _Program:
    """A run's process, with the lines that it wrote so far."""

    def __init__(self, run: Run, notes: str) -> None:
        self.run = run
        self.begun = self.first = self.batch_at = monotonic()
        words = [sys.executable, "-m", "safeloader.demo.train", run.loader, str(run.epochs), run.faults, notes]
        # Settings of the user's own program are not this one's; where this one was imported from, that one is, too.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SAFELOADER_")}
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=plain | {"PYTHONPATH": path},
            start_new_session=True,
        )  # fmt: skip
        self.rest = {"out": b"", "err": b""}

    def hear(self, line: bytes) -> None:
        """What a line of its standard output says."""
        try:
            told = json.loads(line)
            kind, at = told["kind"], told["at"]
        except (ValueError, KeyError, TypeError):
            return
        if kind == "batch" and not self.run.batches:
            self.first = at
        at -= self.first
        if kind == "begins":
            self.run.due = told["due"]
        elif kind == "batch":
            self.run.batches.append(at)
            self.run.accuracy = told["accuracy"]
            self.batch_at = monotonic()
        elif kind == "fault":
            self.run.struck.append((at, told["fault"]))
        elif kind == "ends":
            self.run.ended = "finished" if told["error"] is None else str(told["error"]).partition("\n")[0]
            self.run.seconds = at
            self.run.digests, self.run.report = told.get("digests") or {}, told.get("report")

    def check(self) -> None:
        """Ends it where it has stood still, or taken too long."""
        now, run = monotonic(), self.run
        if run.ended is not None:
            return
        if run.stands_still is not None and run.struck and now - self.batch_at > run.stands_still:
            run.ended = f"stands still: no batch for {run.stands_still:.0f} s"
            self.end()
        elif now - self.begun > LIMIT:
            run.ended = f"no end within {LIMIT:.0f} s"
            self.end()

    def end(self) -> None:
        """Kill it with its workers, which are in its process group, and note its end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        if self.run.ended is None:
            self.run.ended = f"its program ended with {code}"
        self.run.seconds = self.run.seconds or monotonic() - self.first


def watch(runs: Sequence[Run], say: Callable[[Run, str | None], None]) -> None:
    """Run programs beside each other until all have ended.

    Args:
        runs: filled in as they go.
        say: called with a line that a run has written to its standard error, or None where it has got further.
    """
    with tempfile.TemporaryDirectory(prefix="safeloader-demo-") as folder, selectors.DefaultSelector() as selector:
        programs = []
        try:
            for number, run in enumerate(runs):
                notes = os.path.join(folder, str(number))
                os.mkdir(notes)
                programs.append(_Program(run, notes))
                for name, stream in (("out", programs[-1].process.stdout), ("err", programs[-1].process.stderr)):
                    assert stream is not None
                    selector.register(stream, selectors.EVENT_READ, (programs[-1], name))
            while any(program.run.ended is None for program in programs):
                for program, name, line in _lines(selector):
                    if name == "out":
                        program.hear(line)
                    say(program.run, None if name == "out" else line.decode(errors="replace").rstrip())
                for program in programs:
                    program.check()
                if not selector.get_map():
                    break
        finally:
            for program in programs:
                program.end()


def _lines(selector: selectors.BaseSelector) -> Iterator[tuple[_Program, str, bytes]]:
    """The whole lines that have come within a moment."""
    for key, _ in selector.select(timeout=0.25):
        program, name = key.data
        try:
            data = os.read(key.fd, 1 << 16)
        except (OSError, ValueError):
            data = b""
        if not data:
            selector.unregister(key.fileobj)
        *whole, program.rest[name] = (program.rest[name] + data).split(b"\n")
        for line in whole:
            yield program, name, line


def demo(say: Callable[[Run, str | None], None], heading: Callable[[str], None], beside: bool = True) -> list[Run]:
    """All runs of the demonstration.

    Args:
        say: see `watch`.
        heading: called with the name of each part.
        beside: whether torch is run under the faults, too.

    Returns:
        torch undisturbed, safeloader under all faults, then torch under each.
    """
    right = Run("torch, undisturbed", "torch")
    safe = Run("safeloader, 3 faults", "safeloader", FAULTS)
    heading("1. torch's DataLoader, undisturbed: what is right")
    watch([right], say)
    heading("2. safeloader: a worker is killed, a sample hangs, a worker is stopped")
    watch([safe], say)
    torch = []
    if beside:
        names = {"kill": "a worker killed", "hang": "a sample hangs", "stop": "a worker stopped"}
        torch = [Run(f"torch, {names[f]}", "torch", f"{f}:1:5", stands_still=STANDS_STILL) for f in names]
        heading("3. torch's DataLoader, one of these faults each, beside each other")
        watch(torch, say)
    return [right, safe, *torch]
