"""A process is born into the trainer as it was when the iterator began, and is a normal process from then on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from safeloader import Policy, WorkerPool
from safeloader.core.policy import Deadlines
from safeloader.errors import StartError
from safeloader.runtime.memory.arena import Arena, SlotTooSmall
from tests.fixtures_data import Draws, as_they_are
from tests.programs import run
from tests.runtime.harness import (
    COUNT,
    driver_of,
    environment,
    kill_all,
    make,
    nobody_has_a_turn,
    persistent_epochs,
    play,
    processes_of,
    program,
    run_script,
    seed,
)
from tests.until import until

METHODS = ("spawn", "forkserver")

# ---------------------------------------------------------------- surroundings

SURROUNDINGS = """
    import resource, shutil, sys, tempfile, threading
    from tests.fixtures_data import as_they_are
    import os, signal
    from tests.runtime.harness import *
    from safeloader import WorkerPool
    how = sys.argv[1]

    class Looks(torch.utils.data.Dataset):
        def __len__(self):
            return 40
        def __getitem__(self, index):
            with open("/proc/self/status") as file:
                mask = [line for line in file if line.startswith("Umask")]
            return {
                "file": open("data.txt").read() if os.path.exists("data.txt") else "none", "variable": os.environ.get("AUG"),
                "gone": os.environ.get("GONE"), "path": sys.path[-1], "argv": sys.argv[1:], "umask": mask,
                "limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
                "affinity": sorted(os.sched_getaffinity(0)), "nice": os.getpriority(os.PRIO_PROCESS, 0),
                "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
                "ignored": [signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGUSR2, signal.SIGCHLD)],
                "options": sys.flags.optimize,
            }

    def change(folder, variable):
        os.chdir(folder)
        os.environ["AUG"] = variable
        sys.path.append("/" + variable)
        sys.argv[1:] = [variable]
        os.umask(0o22 if variable == "then" else 0o77)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (512 if variable == "then" else 256, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.pthread_sigmask(signal.SIG_BLOCK if variable == "then" else signal.SIG_UNBLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGUSR2, signal.SIG_IGN if variable == "then" else signal.SIG_DFL)

    def main():
        then, now = tempfile.mkdtemp(), tempfile.mkdtemp()
        for folder in (then, now):
            with open(folder + "/data.txt", "w") as file:
                file.write("then" if folder == then else "now")
        method = "forkserver" if how == "forkserver" else "spawn"
        pool = WorkerPool(1) if how == "pool" else None
        policy = Policy(start_method=method, standby=int(how == "standby"), prestart=how == "prestart")
        if pool is not None:
            policy = Policy(pool=pool)
        os.environ["GONE"] = "here"
        if how == "prestart":
            loader = make(Looks(), policy=policy, batch_size=None, collate_fn=as_they_are, num_workers=1)
        change(then, "then")
        if how != "prestart":
            loader = make(Looks(), policy=policy, batch_size=None, collate_fn=as_they_are, num_workers=1)
        seen = []
        for number, found in enumerate(loader):
            seen.append(found)
            if number == 2:
                if how == "standby":
                    until(lambda: len(processes_of(loader)) == 2)
                change(now, "now")
                del os.environ["GONE"]
                shutil.rmtree(then)
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
                for pid in {child.pid for child in psutil.Process().children(recursive=True)}:
                    if "child.process_main" in " ".join(psutil.Process(pid).cmdline()) or method == "forkserver":
                        os.kill(pid, signal.SIGKILL)
        assert loader.report().faults
        first, files = dict(seen[0]), [found.pop("file") for found in seen]
        assert files[0] == "then" and set(files) <= {"then", "none"}, files  # it was removed, and is not another
        assert files[-1] == "none", files
        del first["file"]
        for found in seen:
            assert found == first, (found, first)
        assert first["variable"] == "then" and first["gone"] == "here" and first["argv"] == ["then"], first
        assert first["limit"] == 512 and first["path"] == "/then" and first["ignored"] == [True, False], first
        assert first["blocked"] == [signal.SIGUSR1], first
        print("the same", os.getcwd() == now)
        if pool is not None:
            pool.close()
    main()
    """


@pytest.mark.parametrize(
    "how", [pytest.param("spawn", marks=pytest.mark.fresh), "forkserver", "standby", "prestart", "pool"]
)
def test_what_replaces_a_process_finds_what_that_one_found(tmp_path: Path, how: str) -> None:
    """After the trainer changed its directory (and removed the old one), environment, path, limits, mask, affinity."""
    assert run_script(program(tmp_path, SURROUNDINGS), how).split() == ["the", "same", "True"]


class Limit(Draws):
    """How many files may be open."""

    def __getitem__(self, index: int) -> torch.Tensor:
        import resource

        return torch.tensor(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_had_any_more_is_told_and_costs_nobody_a_process(
    method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit above what the kernel gives to anybody stands for one that was lowered for good."""
    with make(Limit(COUNT), policy=Policy(start_method=method), num_workers=1) as loader:
        stream = iter(loader)
        was = int(next(stream)[0])
        given = driver_of(stream).spec.surroundings
        limits = list(given.facts.limits)
        limits[7] = 1 << 40, 1 << 40
        given.facts = given.facts._replace(limits=limits)
        kill_all(loader)
        rest = list(stream)
        assert int(rest[-1][0]) >= was
        assert loader.report().causes == {"died": 1}
    assert [line for line in caplog.messages if "RLIMIT_NOFILE was 1099511627776, and cannot be raised above" in line]


# ---------------------------------------------------------------- the hash seed

HASHES = """
    import subprocess, sys
    from tests.fixtures_data import as_they_are
    import os, signal
    from tests.runtime.harness import *

    class Hashes(torch.utils.data.Dataset):
        def __len__(self):
            return 24
        def __getitem__(self, index):
            inside = subprocess.run(["sh", "-c", "echo ${PYTHONHASHSEED-unset}"], capture_output=True, text=True)
            return hash("class"), os.environ.get("PYTHONHASHSEED", "unset"), inside.stdout.strip()

    def main():
        for method in ("spawn", "forkserver"):
            loader = make(Hashes(), policy=Policy(start_method=method), batch_size=None, collate_fn=as_they_are, num_workers=1)
            seen = set()
            for number, found in enumerate(loader):
                seen.add(found)
                if number == 2:
                    kill_all(loader)
            assert loader.report().faults
            assert len(seen) == 1, seen
            ((number, own, inside),) = seen
            print(number, number == hash("class"), own, inside)
    main()
    """


@pytest.mark.parametrize("given", ["7", pytest.param("0", marks=pytest.mark.slow), None])
def test_all_processes_have_one_hash_seed_and_the_trainers_if_it_has_one(tmp_path: Path, given: str | None) -> None:
    script = program(tmp_path, HASHES)
    surroundings = environment(**({} if given is None else {"PYTHONHASHSEED": given}))
    if given is None:
        surroundings.pop("PYTHONHASHSEED", None)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=90, env=surroundings, check=False
    )
    assert done.returncode == 0, done.stderr
    spawned, forked = (line.split() for line in done.stdout.splitlines())
    assert spawned == forked
    assert spawned[1:] == [str(given is not None), given or "unset", given or "unset"]


@pytest.mark.parametrize("option", [pytest.param("-E", marks=pytest.mark.slow), "-I"])
def test_who_ignores_pythons_variables_has_one_seed_as_well(tmp_path: Path, option: str) -> None:
    script = tmp_path / "isolated.py"
    text = HASHES.replace("import subprocess, sys", f"import subprocess, sys; sys.path.append({os.getcwd()!r})")
    program(tmp_path, text, script.name)
    done = subprocess.run(
        [sys.executable, option, str(script)], capture_output=True, text=True, timeout=90, check=False,
        env=environment(PYTHONHASHSEED="5"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (spawned, forked) = (line.split() for line in done.stdout.splitlines())
    assert spawned == forked
    assert spawned[2:] == ["5", "5"]


# ---------------------------------------------------------------- signals


def signals_of_a_program() -> list[str]:
    """What a program that is started here blocks and ignores."""
    said = subprocess.run(
        ["grep", "-E", "SigIgn|SigBlk", "/proc/self/status"], capture_output=True, text=True, check=True
    )
    return said.stdout.splitlines()


def masks(lines: list[str]) -> list[int]:
    return [int(line.split()[1], 16) for line in lines]


class Helpers(Dataset[Any]):
    """A sample that starts a program, or a child, and ends it by a signal."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        number = signal.SIGTERM if index % 2 else signal.SIGINT
        if index < 2:
            helper = subprocess.Popen(["sleep", "60"])
            helper.send_signal(number)
            return helper.wait()
        if index == 4:
            with open("/proc/self/status") as file:
                ours = [line for line in file if line.startswith(("SigIgn", "SigBlk"))]
            return ours, signals_of_a_program()
        pid = os.fork()
        if pid == 0:
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            except KeyboardInterrupt:
                os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("method", METHODS)
def test_programs_and_children_of_a_sample_can_be_ended(method: Any) -> None:
    """As in the trainer: nothing is ignored or blocked besides, but what Python itself ignores in itself."""
    with make(
        Helpers(), policy=Policy(start_method=method), batch_size=None, collate_fn=as_they_are, num_workers=1
    ) as loader:
        found = list(loader)
        assert loader.report().faults == []
    assert found[:4] == [-signal.SIGINT, -signal.SIGTERM, 2, -signal.SIGTERM]
    by_python = sum(1 << (n - 1) for n in (signal.SIGPIPE, signal.SIGXFSZ))
    blocked, ignored = masks(signals_of_a_program())  # whoever started pytest may ignore some, and so do its programs
    assert [masks(lines) for lines in found[4]] == [[blocked, ignored | by_python], [blocked, ignored]]


class Waits(Dataset[Any]):
    """A sample that is told to end while C code waits, without Python and with it."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        import ctypes
        import socket
        import threading

        ours, theirs = socket.socketpair()
        with ours, theirs:
            timer = threading.Timer(0.05, self._end, (theirs, threading.main_thread().native_id))
            timer.start()
            buffer = ctypes.create_string_buffer(1)
            got = ctypes.CDLL(None, use_errno=True).read(ours.fileno(), buffer, 1)  # -1 if it is interrupted
            timer.join()
        return int(got)

    @staticmethod
    def _end(theirs: Any, thread: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        theirs.send(b"x")


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_is_told_to_end_goes_on_and_no_call_is_interrupted(method: Any) -> None:
    policy = Policy(start_method=method)
    with make(Waits(), policy=policy, batch_size=None, collate_fn=as_they_are, num_workers=1) as loader:
        assert list(loader) == [1] * 12
        assert loader.report().faults == []


NO_CHILDREN = """
    import sys
    import os, signal
    from tests.runtime.harness import *
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    loader = make(Draws(COUNT), policy=Policy(start_method=sys.argv[1]))
    seed()
    stream = iter(loader)
    first = [next(stream)]
    kill_all(loader)
    print(digest(play([*first, *stream])))
    faults = loader.report().faults
    assert faults and {fault.cause for fault in faults} <= {"died", "failed_start"}, faults
    print(*{fault.detail for fault in faults}, sep="|")
    """


@pytest.mark.parametrize("method", METHODS)
def test_a_trainer_may_ignore_its_children(tmp_path: Path, method: str) -> None:
    from tests.runtime.harness import digest

    found, detail = run_script(program(tmp_path, NO_CHILDREN), method).splitlines()
    assert found == digest(persistent_epochs()[0])
    assert detail == ("SIGKILL" if method == "forkserver" else "how is not known, as the program ignores SIGCHLD")


# ---------------------------------------------------------------- the script

MAIN = """
import multiprocessing, os, pickle, sys, tempfile
import torch, textwrap as wrapping
from torch.utils.data import Dataset
from safeloader import DataLoader, Policy

print("runs in", os.getpid(), flush=True)
ROOT = "root-of-the-script"
COUNTS = {"a": [1, 2], "b": (3,)}
model = torch.nn.Linear(2000, 2000)
lock = __import__("threading").Lock()

class Base:
    kind = "base"

class Record(Base):
    class Part:
        pass
    def __init__(self, n):
        self.n = n
    def root(self):
        return ROOT + suffix()

def suffix():
    return "!" if wrapping.dedent("  x") == "x" else "?"

def with_model():
    return model

class Looks(Dataset):
    def __init__(self, folder):
        self.folder = folder
    def __len__(self):
        return 3
    def __getitem__(self, index):
        import __main__, multiprocessing
        with open(f"{self.folder}/record", "rb") as file:
            record = pickle.load(file)
        try:
            heavy = __main__.model
        except AttributeError as error:
            heavy = str(error)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            twice = pool.apply(abs, (-4,))
        parent = multiprocessing.parent_process()
        return {
            "record": record.n, "root": record.root(), "same": type(record) is __main__.Record and isinstance(record, __main__.Base),
            "made": pickle.loads(pickle.dumps(record)).n, "file": os.path.basename(__main__.__file__), "name": __main__.__name__,
            "constant": __main__.ROOT, "dict": __main__.COUNTS, "heavy": heavy, "spec": getattr(__main__.__spec__, "name", None),
            "parent": parent.pid == int(os.environ["TRAINER"]) and parent.is_alive(), "child": multiprocessing.current_process().name,
            "module": __main__.wrapping.__name__, "twice": twice, "unknown": hasattr(__main__, "nothing"),
        }, record

folder = tempfile.mkdtemp()
with open(f"{folder}/record", "wb") as file:
    pickle.dump(Record(7), file)
os.environ["TRAINER"] = str(os.getpid())
loader = DataLoader(Looks(folder), batch_size=None, num_workers=1, policy=Policy(start_method=sys.argv[1]))
for found, record in loader:
    assert type(record) is Record and record.n == 7
    heavy = found.pop("heavy")
    assert "stays in the trainer" in heavy, heavy
    print(found)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_finds_in_main_what_it_looks_up_and_nobody_runs_the_script(tmp_path: Path, method: str) -> None:
    path = program(tmp_path, MAIN, "as_module.py")
    _check_main(run_script(path, method), None)
    if method == "spawn":
        done = run("-m", "as_module", method, cwd=tmp_path)
        assert done.code == 0, done.err
        _check_main(done.out, "as_module")


def _check_main(out: str, spec: str | None) -> None:
    first, *found = out.splitlines()
    assert first.startswith("runs in")
    wanted = {
        "record": 7, "root": "root-of-the-script!", "same": True, "made": 7, "file": "as_module.py", "name": "__main__",
        "constant": "root-of-the-script", "dict": {"a": [1, 2], "b": [3]}, "spec": spec, "parent": True,
        "child": "safeloader-1", "module": "textwrap", "twice": 4, "unknown": False,
    }  # fmt: skip
    assert [eval(line) for line in found] == [wanted] * 3


class Numbers(Dataset[Any]):
    """The number of a class of the script, as its worker calls it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        main: Any = sys.modules["__main__"]
        main.seen = [*getattr(main, "seen", []), self.number]
        return len(set(main.seen))


def test_two_workers_of_one_process_have_a_script_each(forked: None) -> None:
    with WorkerPool(1) as pool:
        how: Any = {"policy": Policy(pool=pool), "batch_size": None, "collate_fn": as_they_are}
        loaders = [make(Numbers(n), **how) for n in range(2)]
        assert [found for pair in zip(*loaders, strict=True) for found in pair] == [1] * 16


# ---------------------------------------------------------------- executables, frozen applications

EXECUTABLE = """
    import multiprocessing, sys
    import os, signal
    from tests.runtime.harness import *
    wrapper = sys.argv[1]
    with open(wrapper, "w") as file:
        file.write(f'#!/bin/sh\\necho started >> {wrapper}.log\\nexec {sys.executable} "$@"\\n')
    os.chmod(wrapper, 0o755)
    multiprocessing.set_executable(wrapper)
    sys.frozen = True  # as it is not this executable that runs again
    print(digest(run_epoch(make(Draws(COUNT), policy=Policy(start_method=sys.argv[2])))))
    print(open(wrapper + ".log").read().count("started"))
    """


@pytest.mark.parametrize(("method", "count"), [("spawn", 2), ("forkserver", 1)])
def test_the_executable_that_multiprocessing_was_told_is_obeyed(tmp_path: Path, method: str, count: int) -> None:
    from tests.runtime.harness import digest

    out = run_script(program(tmp_path, EXECUTABLE), str(tmp_path / "python-wrapper"), method)
    assert out.split() == [digest(persistent_epochs()[0]), str(count)]


def test_a_frozen_application_is_not_started_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with make(Draws(COUNT)) as loader, pytest.raises(StartError, match="frozen application") as raised:
        iter(loader)
    assert "set_executable" in str(raised.value)


STREAMLESS = """
    import os, signal
    from tests.runtime.harness import *
    result = os.open(__file__ + ".out", os.O_CREAT | os.O_WRONLY)
    for number in range(3):
        os.close(number)
    class Prints(Draws):
        def __getitem__(self, index):
            os.system("echo from a program")
            print("from a sample")
            return super().__getitem__(index)
    os.write(result, digest(run_epoch(make(Prints(COUNT)))).encode())
    """


def test_a_trainer_without_standard_streams_has_processes_without_them(tmp_path: Path) -> None:
    """Their numbers are given to other files then, such as a channel: nobody prints into it."""
    from tests.runtime.harness import digest

    script = program(tmp_path, STREAMLESS)
    run_script(script)
    assert Path(f"{script}.out").read_text() == digest(persistent_epochs()[0])


# ---------------------------------------------------------------- limits

LIMITED = """
    import sys
    import os, signal
    from tests.runtime.harness import *
    from safeloader.errors import SafeLoaderError
    class Large(torch.utils.data.Dataset):
        def __len__(self): return 8
        def __getitem__(self, index): return torch.full((500_000,), index, dtype=torch.uint8)
    try:
        print([batch[:, 0].tolist() for batch in make(Large(), num_workers=1, shuffle=False)])
        print(digest(run_epoch(make(Draws(COUNT)))))
    except SafeLoaderError as error:
        print(error)
    """


@pytest.mark.parametrize("limit", ["ulimit -f 100000", "ulimit -S -f 100", "ulimit -n 48"])
def test_limits_that_leave_room_cost_nothing(tmp_path: Path, limit: str) -> None:
    from tests.runtime.harness import digest

    out = _limited(tmp_path, limit)
    assert out.splitlines() == ["[[0, 1, 2, 3], [4, 5, 6, 7]]", digest(persistent_epochs()[0])]


def test_a_limit_of_files_that_leaves_no_room_is_named(tmp_path: Path) -> None:
    out = _limited(tmp_path, "ulimit -f 4000")
    assert "the limit of a file in bytes, ulimit -f, is 4096000" in out


def _limited(folder: Path, limit: str) -> str:
    how = "spawn" if "-n" in limit else "forkserver"  # where descriptors are few, each process costs the trainer some
    script = program(folder, LIMITED)
    done = subprocess.run(
        ["bash", "-c", f'{limit}; exec "{sys.executable}" "{script}"'], capture_output=True, text=True, timeout=90,
        env=environment(PYTHONDONTWRITEBYTECODE="1", SAFELOADER_START_METHOD=how), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_batch_larger_than_limited_memory_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safeloader.runtime.system.largest_file", lambda: 64 << 20)
    arena, other = Arena(slots=15), None
    try:
        assert arena.window == 4 << 20
        other = Arena(os.dup(arena.descriptor))
        other.map(14, 4 << 20).view()[:3] = b"abc"
        assert bytes(arena.map(14, 10).view()[:3]) == b"abc"
        for slot, size in ((0, (4 << 20) + 1), (15, 1)):
            with pytest.raises(SlotTooSmall, match="ulimit -f"):
                arena.map(slot, size)
    finally:
        arena.close()
        if other is not None:
            other.close()


# ---------------------------------------------------------------- starts that take long


ONCE = """
import os, time
try:
    os.close(os.open({first!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pass
else:
    time.sleep(100_000)
"""


def test_a_start_that_stands_is_told_with_its_place_and_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ONCE.format(first=str(tmp_path / "first")))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(Deadlines, "START_FLOOR", 8.0)
    monkeypatch.setattr(Deadlines, "START_FACTOR", 0.0)
    monkeypatch.setattr(Deadlines, "SLOW_FLOOR", 0.5)
    monkeypatch.setattr(Deadlines, "SLOW_FACTOR", 0.0)
    with make(Draws(COUNT), policy=Policy(start_method="spawn")) as loader:
        seed()
        assert play(loader) == persistent_epochs()[0]
        (fault,) = loader.report().faults
        assert fault.cause == "failed_start"
        assert fault.stalled is not None
        assert 8.0 <= fault.stalled < 120.0
    assert [line for line in caplog.messages if f"process {fault.process} is not ready after" in line]


def test_a_start_that_somebody_has_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deadlines, "SLOW_FLOOR", 0.5)
    monkeypatch.setattr(Deadlines, "SLOW_FACTOR", 0.0)
    with make(Draws(COUNT), policy=Policy(start_method="spawn", startup_timeout=3000)) as loader:
        seed()
        with nobody_has_a_turn():  # else it may be ready before it is stopped
            stream = iter(loader)
            victim = processes_of(loader)[1]
            victim.send_signal(signal.SIGSTOP)
            until(lambda: victim.status() == psutil.STATUS_STOPPED)
        assert play(stream) == persistent_epochs()[0]
        (fault,) = loader.report().faults
        assert (fault.cause, fault.process) == ("failed_start", victim.pid)


def test_a_start_that_waits_for_its_turn_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Deadlines, "SLOW_FLOOR", 0.5)
    monkeypatch.setattr(Deadlines, "SLOW_FACTOR", 0.0)

    def told() -> list[str]:
        return [line for line in caplog.messages if "is not ready after" in line]

    with caplog.at_level(logging.WARNING), make(Draws(COUNT), policy=Policy(start_method="spawn")) as loader:
        seed()
        with nobody_has_a_turn():
            stream = iter(loader)
            until(lambda: driver_of(stream).loop.look(0.01) or told())
        assert play(stream) == persistent_epochs()[0]
        assert loader.report().faults == []
    assert [line for line in told() if "it waits for its turn to import" in line or "its interpreter" in line], told()
