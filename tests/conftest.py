"""What all tests share: a clean environment, spawn, and a check that a test left nothing behind."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch.multiprocessing

from safeloader.observe import stall
from safeloader.runtime.start import import_slots, phases
from safeloader.runtime.start.launcher import Launcher
from safeloader.runtime.start.parent_watch import lifeline
from safeloader.runtime.trainer import fork_views, shield, watchdog
from tests import shared, warm, warm_workers
from tests.programs import environment
from tests.timing import Timing
from tests.until import until

_PATIENCE = 20.0  # seconds until what is on its way out must be gone
_HERE = os.path.dirname(__file__)
_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_LOADERS = ("runtime", "api", "remote")
_GUESTS = ("accelerator", "cli", "distributed", "docs", "integration", "testing", "training")
"""Folders whose tests run other packages too: those keep threads and files, but no process and none of our memory."""


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("SAFELOADER_")]:
        del os.environ[name]
    # Else each process that a test starts compiles the package anew, which takes a third as long as importing torch.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if shared.begin():
        config.add_cleanup(shared.end)
    config.pluginmanager.register(Timing())
    # A shell that starts the suite in the background has it ignore Ctrl-C, and all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What is made once for a whole program is no leak of the test that happens to come first.
    torch.multiprocessing.set_start_method("spawn", force=True)
    multiprocessing.resource_tracker.ensure_running()
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        # torch's own loaders, which are the reference: where a test says "forkserver", their processes cost no import.
        multiprocessing.set_forkserver_preload(["numpy", "pytest", "torch.utils.data"])
        multiprocessing.forkserver.ensure_running()
        warm_workers.begin(dict(os.environ))
        warm.begin(environment())
        config.add_cleanup(warm.end)
    lifeline()
    stall.start()
    import_slots.place()
    phases.row()
    watchdog.start()
    shield.start()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is here stays: looking for garbage after each test is quick then


@contextlib.contextmanager
def _unnamed() -> Iterator[None]:
    """A changed environment is a new fork server, and pytest changes it for each test."""
    before = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["PYTEST_CURRENT_TEST"] = before


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Any:
    with _unnamed():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Any:
    with _unnamed():
        return (yield)


@pytest.fixture(scope="session")
def _fork_way() -> Iterator[Launcher]:
    """Holds the fork server that all tests share which are ``forked``."""
    launcher = Launcher("forkserver")
    yield launcher
    launcher.close()


@pytest.fixture
def forked(_fork_way: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked by a server, where nothing else is asked for: a start costs milliseconds, not the import of
    torch. For tests of what happens after a start."""
    monkeypatch.setenv("SAFELOADER_START_METHOD", "forkserver")
    _fork_way.server()  # another one only where a test has changed the environment or the path


class Belongings(NamedTuple):
    """What a program holds, by kind, so that a restarted process equals the one it replaces."""

    processes: Counter[str]
    descriptors: Counter[str]
    mappings: Counter[str]
    threads: Counter[str]

    @classmethod
    def now(cls) -> Belongings:
        return cls(_processes(), _descriptors(), _mappings(), Counter(t.name for t in threading.enumerate()))

    def beyond(self, before: Belongings) -> dict[str, dict[str, int]]:
        """What is here and was not there before."""
        extra = {name: dict(now - then) for name, now, then in zip(self._fields, self, before, strict=True)}
        return {name: more for name, more in extra.items() if more}


def _processes() -> Counter[str]:
    kinds: Counter[str] = Counter()
    multiprocessing.active_children()  # reaps those of torch's loaders, which they leave to Python
    for pid in _descendants(os.getpid()):
        line = _command_line(pid)
        kinds["safeloader's" if "from safeloader.runtime." in line else line] += 1
    return kinds


def _command_line(pid: int) -> str:
    try:
        while not (line := Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").replace("\0", " ")):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return "a zombie"
            time.sleep(0.001)  # it is in the middle of its exec
    except OSError:
        return "a zombie"
    return line


def _descendants(pid: int) -> list[int]:
    """The processes below one. Where the kernel lists a thread's children, no other process has to be looked at."""
    if not _LISTS_CHILDREN:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # one has ended meanwhile
        return []
    children = [int(child) for line in lists for child in line.split()]
    return children + [below for child in children for below in _descendants(child)]


def _descriptors() -> Counter[str]:
    kinds: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            kinds[re.sub(r":\[\d+\]", "", os.readlink(f"/proc/self/fd/{number}"))] += 1
        except FileNotFoundError:  # the listing's own
            pass
    return kinds


def _mappings() -> Counter[str]:
    with open("/proc/self/maps") as file:
        return Counter(line.split(None, 5)[5].strip() for line in file if "memfd:safeloader" in line)


@pytest.fixture(scope="module", autouse=True)
def _what_is_here_stays() -> None:
    """What the tests of other files have imported and left: looking through it takes a tenth of a second by and by, and
    each test looks for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _interpreters(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs and processes of safeloader's are interpreters of their own where the test is marked ``fresh``."""
    with warm_workers.only_fresh() if request.node.get_closest_marker("fresh") else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def modules_of_a_test_end_with_it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test imports from its own folder is not there for the next one, which would tell of its edits."""
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test: no process, descriptor, mapping or thread more than before; of guests, no process or mapping.

    A test that uses the shared loader (``rig``, ``stream_rig``) or pool may make its arena larger. That loader is made to
    hear how its processes begin and end, which it does in an epoch only.
    """
    folder = os.path.relpath(request.path, _HERE).partition(os.sep)[0]
    if folder not in (*_LOADERS, *_GUESTS):
        yield
        return
    common = {"forked", "rig", "stream_rig", "pool"}.intersection(request.fixturenames)
    rigs = []
    for name in sorted(common):  # their processes belong to what was there before
        found = request.getfixturevalue(name)
        rigs += [found] if name.endswith("rig") else []
    until(lambda: all(rig.is_settled() for rig in rigs), _PATIENCE)
    passed_over = {"mappings"} if common - {"forked"} else set()
    if folder in _GUESTS:
        passed_over |= {"descriptors", "threads"}
    gc.collect()
    before = Belongings.now()
    yield
    try:
        until(lambda: all(rig.is_settled() for rig in rigs) and not _left_behind(before, passed_over), _PATIENCE)
    except AssertionError:
        if left := _left_behind(before, passed_over):
            pytest.fail(f"left behind: {left}")


def _left_behind(before: Belongings, passed_over: set[str]) -> dict[str, dict[str, int]]:
    gc.collect()
    fork_views.forget_ended()  # a shared loader that stands idle learns of a fork's end with its next batch
    return {kind: more for kind, more in Belongings.now().beyond(before).items() if kind not in passed_over}
