"""Lists where the suite's time goes: a row a file, with what it took of the processor and the Python processes that it
started."""

from __future__ import annotations

import multiprocessing.util
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

_SHOWN = 60
_LEAST = 60.0
"""Seconds of a run whose list is worth a page."""
_STARTS, _BUSY = "python processes", "processor seconds"


class Timing:
    """A plugin of pytest. Under xdist the controller adds up what its workers report."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._started = 0
        self._count_starts()

    def _count_starts(self) -> None:
        """Of this process's children; their own children are not seen."""
        execute: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]
        spawn = multiprocessing.util.spawnv_passfds

        def counted_execute(popened: Any, args: Any, *given: Any) -> None:
            command = args if isinstance(args, (str, bytes)) else next(iter(args), "")
            self._started += "python" in os.path.basename(os.fsdecode(command))
            execute(popened, args, *given)

        def counted_spawn(*args: Any) -> int:
            self._started += 1
            return spawn(*args)

        subprocess.Popen._execute_child = counted_execute  # type: ignore[attr-defined]
        multiprocessing.util.spawnv_passfds = counted_spawn

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        item.stash[_BEFORE] = self._started, _processor_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        if call.when == "teardown":
            started, busy = item.stash[_BEFORE]
            item.user_properties.append((_STARTS, self._started - started))
            item.user_properties.append((_BUSY, _processor_seconds() - busy))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        self._seconds[file] += report.duration
        if report.when == "teardown":
            self._tests[file] += 1
            told: dict[str, Any] = dict(report.user_properties)
            self._starts[file] += told.get(_STARTS, 0)
            self._busy[file] += told.get(_BUSY, 0.0)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        total = sum(self._seconds.values())
        if total < _LEAST:
            return
        terminalreporter.section("where the time went")
        write = terminalreporter.write_line
        write(f"{'seconds':>8} {'busy':>8} {'tests':>6} {'starts':>6}  file")
        for file, seconds in self._seconds.most_common(_SHOWN):
            write(f"{seconds:8.1f} {self._busy[file]:8.1f} {self._tests[file]:6} {self._starts[file]:6}  {file}")
        busy, tests, starts = (sum(each.values()) for each in (self._busy, self._tests, self._starts))
        write(f"{total:8.1f} {busy:8.1f} {tests:6} {starts:6}  in all")
        write("busy: of the processor, by pytest and by what it waited for the end of (what servers forked is not)")
        write(f"starts: Python processes; one that imports torch takes {_seconds_to_import_torch():.1f} s here, now")


_BEFORE = pytest.StashKey[tuple[int, float]]()


def _processor_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _seconds_to_import_torch() -> float:
    begun = monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=False)
    return monotonic() - begun
