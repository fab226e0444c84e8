"""Runs a program and notes when it said what."""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.child import end

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
_RESULT = "RESULT "


@dataclass
class Run:
    """What a program did.

    Attributes:
        lines: (seconds since its start, text) of each line of its output and its errors.
        seconds: how long it ran.
        ended: it came to its end; False: nothing was heard for too long, and it was ended.
        status: its exit status.
        result: the facts that it gave with ``tell``.
        patience: after how many seconds without a line it would have been ended.
    """

    lines: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = True
    status: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    patience: float = 0.0

    def first(self, words: str, after: float = 0.0) -> tuple[float, str] | None:
        """The first line with these words, and when it came."""
        return next(((t, line) for t, line in self.lines if words in line and t >= after), None)

    def at(self, words: str) -> float:
        """When these words came.

        Raises:
            LookupError: they never did.
        """
        found = self.first(words)
        if found is None:
            raise self._lacks(words)
        return found[0]

    def fact(self, name: str) -> Any:
        """A fact that the program told.

        Raises:
            LookupError: it did not.
        """
        if name not in self.result:
            raise self._lacks(name)
        return self.result[name]

    def _lacks(self, words: str) -> LookupError:
        said = "\n".join(text for _, text in self.lines[-60:])
        how = f"it ended with status {self.status}" if self.ended else f"it was silent for {self.patience:.0f} s"
        return LookupError(f"the program never said {words!r}: {how}, and said:\n{said}")


def tell(**facts: Any) -> None:
    """Called by a program: facts about its run."""
    print(_RESULT + json.dumps(facts), flush=True)


def run(name: str, side: str, *, patience: float = 60.0, environment: dict[str, str] | None = None) -> Run:
    """Run an incident's program.

    Args:
        name: its module.
        side: ``"with"``, ``"without"``, or another word that it knows.
        patience: seconds without a line until it is taken for hung, and ended with all its processes.
        environment: variables besides those of this process.
    """
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", f"benchmarks.incidents.{name}", f"--{side}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    said: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, said), daemon=True).start()
    begun, seen = time.monotonic(), Run(patience=patience)
    while True:
        try:
            line = said.get(timeout=patience)
        except queue.Empty:
            seen.ended = False
            end(process)
            break
        if line is None:
            break
        if line.startswith(_RESULT):
            seen.result |= json.loads(line[len(_RESULT) :])
        else:
            seen.lines.append((time.monotonic() - begun, line))
    seen.status = process.wait()
    seen.seconds = time.monotonic() - begun
    return seen


def _read(process: subprocess.Popen[str], said: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            said.put(line.rstrip())
    said.put(None)


def side_of(doc: str | None, *more: str) -> str:
    """The command line of an incident's program: ``--with``, ``--without``, or one of ``more``."""
    parser = argparse.ArgumentParser(description=doc)
    group = parser.add_mutually_exclusive_group(required=True)
    for side in ("with", "without", *more):
        group.add_argument(f"--{side}", dest="side", action="store_const", const=side)
    return str(parser.parse_args().side)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        incident: which.
        side: ``"without"`` or ``"with"`` safeloader.
        happened: what was seen.
        noticed: after what time the trouble was named; "never" if it was not.
        lost: what it cost.
        finished: the program came to its end.
        metric: the final metric.
        as_claimed: what the project claims about it holds.
    """

    incident: str
    side: str
    happened: str
    noticed: str
    lost: str
    finished: bool
    metric: str
    as_claimed: bool


def judged(incident: str, *sides: tuple[str, Callable[[], Row]]) -> list[Row]:
    """Rows, each by itself: one whose program missed its cap, or did not say what it should, says so and no more."""
    return [_judged(incident, side, judge) for side, judge in sides]


def _judged(incident: str, side: str, judge: Callable[[], Row]) -> Row:
    try:
        return judge()
    except Exception as error:
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        what = first if isinstance(error, LookupError) else f"{type(error).__name__}: {first}"
        return Row(incident, side, f"not measured: {what}", "-", "-", False, "-", False)
