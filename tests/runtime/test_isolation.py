"""A worker in the trainer: nothing of the trainer's reaches a sample, nothing of the worker's stays."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader

from safeloader import BadSampleError, DataLoader, Policy
from safeloader.runtime.child.own_globals import OwnGlobals
from safeloader.runtime.child.user_globals import Namespace
from safeloader.runtime.isolation import Ambient
from safeloader.runtime.trainer import inline_turn, loop
from tests.runtime.ambient_data import (
    AMBIENT,
    DEEDS,
    Lasting,
    Rude,
    RudeStream,
    Surroundings,
    leaves,
    program_state,
    rude,
    surroundings,
)
from tests.runtime.harness import TORCHS, processes_of, program, run_script, seed

pytestmark = [pytest.mark.filterwarnings("ignore:look:UserWarning"), pytest.mark.filterwarnings("ignore:Anomaly")]


def inline(dataset: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset, name="train", policy=Policy(max_processes=0), **{"num_workers": 2, "batch_size": None, **options}
    )


# ---------------------------------------------------------------- into a sample


@pytest.fixture(scope="module")
def in_a_process() -> list[dict[str, str]]:
    """What torch's spawned workers see."""
    return list(TorchLoader(Surroundings(), batch_size=None, num_workers=2, multiprocessing_context=TORCHS))


@pytest.mark.parametrize("name", AMBIENT)
def test_nothing_around_the_loop_reaches_a_sample(name: str, in_a_process: list[dict[str, str]]) -> None:
    loader = inline(Surroundings())
    iterator = iter(loader)
    with AMBIENT[name]():
        assert surroundings() != in_a_process[0], "the test would show nothing"
        before = program_state()
        seen = list(iterator)
        assert program_state() == before
    assert seen == in_a_process


def test_without_workers_what_is_around_the_loop_counts_as_with_torch() -> None:
    with torch.autocast("cpu"), torch.no_grad():
        mine = list(DataLoader(Surroundings(), batch_size=None))
        assert mine == list(TorchLoader(Surroundings(), batch_size=None))
        assert mine[0]["gradients"] == "False"


# ---------------------------------------------------------------- out of a worker


@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_keeps_what_it_changes_and_the_program_does_not_notice(persistent: bool) -> None:
    options: dict[str, Any] = {
        "batch_size": None,
        "num_workers": 2,
        "worker_init_fn": rude,
        "persistent_workers": persistent,
    }
    torchs = TorchLoader(Rude(), multiprocessing_context=TORCHS, **options)
    loader, before = inline(Rude(), **options), program_state()
    first = list(torchs)
    for expected in (first, list(torchs) if persistent else first):
        got = []
        for sample in loader:
            assert program_state() == before
            got.append(sample)
        assert got == expected
    loader.close()
    assert program_state() == before


def test_a_generator_goes_on_in_the_surroundings_that_it_left() -> None:
    options: dict[str, Any] = {"batch_size": None, "num_workers": 2}
    expected = list(TorchLoader(RudeStream(), multiprocessing_context=TORCHS, **options))
    before, got = program_state(), []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        inside = program_state()
        for sample in inline(RudeStream(), **options):
            assert program_state() == inside
            got.append(sample)
    assert got == expected
    assert program_state() == before


def test_after_an_exception_everything_is_put_back_too() -> None:
    loader, before = inline(Rude(raises=2), worker_init_fn=rude), program_state()
    iterator = iter(loader)
    got: list[Any] = [next(iterator) for _ in range(2)]
    with pytest.raises(ValueError, match="as asked"):
        next(iterator)
    assert program_state() == before
    got += list(iterator)
    assert [sample["count"] for sample in got] == ["1", "1", "2", "3", "3", "4", "4", "5", "5", "6", "6"]


_counted, _counts = 0, list[int]()


def _count() -> None:
    global _counted  # noqa: PLW0603 - it is what is exchanged
    _counted += 1
    _counts.append(_counted)


def _interrupting(line: int, kind: str) -> Any:
    """A tracer that interrupts at the so-manieth line of the isolation, and a list that is empty until then."""
    inside = {sys.modules[part.__module__].__file__ for part in (Ambient, OwnGlobals, Namespace)}
    lines, reached = itertools.count(1), []

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in inside:
            return None
        if event == "line" and next(lines) == line:
            reached.append(line)
            if kind == "trace":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)
        return trace

    return trace, reached


@pytest.mark.parametrize("kind", ["trace", "signal"])
def test_after_an_interrupt_at_any_line_everything_is_put_back(kind: str) -> None:
    """A tracer raises at the n-th line of the isolation, for all n."""
    told: list[str] = []
    ambient = Ambient(lambda _, what, left_out: told.append(what))
    view, before = ambient.view(), program_state()
    view.own_globals = OwnGlobals([_count], first=False)

    def act() -> None:
        _count()
        os.environ["SAFELOADER_TEST_RUDE"] = "1"
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    for line in itertools.count(1):
        trace, reached = _interrupting(line, kind)
        sys.settrace(trace)
        try:
            ambient.inside(view, act)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert program_state() == before, f"line {line}"
        assert (_counted, _counts) == (0, []), f"line {line}"
        if not reached:
            break
    assert line > 50
    assert not told


# ---------------------------------------------------------------- what cannot be undone


@pytest.fixture(scope="module")
def plain() -> list[torch.Tensor]:
    """What one worker of torch's loads where nothing is done."""
    seed()
    return list(TorchLoader(Lasting("exit", at=99), batch_size=None, num_workers=1, multiprocessing_context=TORCHS))


@pytest.mark.usefixtures("forked")
def test_a_worker_whose_set_up_cannot_be_undone_is_set_up_in_a_process(caplog: pytest.LogCaptureFixture) -> None:
    seed()
    expected = list(
        TorchLoader(Lasting("session", at=99), batch_size=None, num_workers=2, multiprocessing_context=TORCHS)
    )
    loader, before = inline(Lasting("session", at=99), worker_init_fn=leaves), program_state()
    seed()
    got, processes = [], 0
    for sample in loader:
        got.append(sample)
        processes = max(processes, len(processes_of(loader)))
        assert program_state() == before
    assert all(map(torch.equal, got, expected))
    assert processes == 1, "both are in the escort"
    assert (
        "faulthandler.enable() could not be undone in the main process; worker 0 goes on in a process of its own"
        in caplog.text
    )
    assert loader.report().faults == []


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("deed", [*DEEDS, "swallowed"])
def test_a_sample_that_cannot_be_undone_or_would_end_the_program_goes_to_a_process(
    deed: str, plain: list[torch.Tensor]
) -> None:
    before = program_state()
    lasting = deed in ("session", "faulthandler", "swallowed")
    loader = inline(Lasting(deed), num_workers=1)
    seed()
    iterator, got, errors = iter(loader), [], []
    while True:
        try:
            got.append(next(iterator))
        except StopIteration:
            break
        except BadSampleError as error:
            errors.append(error.indices)
        assert program_state() == before
    if lasting:
        assert not errors
        assert all(map(torch.equal, got, plain))
    else:
        assert errors == [[3]]
        assert len(got) == 7
        assert all(map(torch.equal, got[:3], plain[:3]))


def test_where_no_process_can_be_had_it_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loader = DataLoader(
        Lasting("session", at=99), batch_size=None, num_workers=1, name="train", policy=Policy(max_processes=0, max_restarts=1),
        worker_init_fn=leaves,
    )  # fmt: skip
    iterator = iter(loader)
    before = program_state()
    monkeypatch.setattr(loop, "Process", _no_process)
    seed()
    assert len(list(iterator)) == 8
    assert program_state() == before
    assert "faulthandler.enable() could not be undone in the main process; it is left out for worker 0" in caplog.text


def _no_process(*_: object) -> Any:
    raise OSError("Resource temporarily unavailable")


def test_other_threads_call_what_is_guarded_as_ever() -> None:
    ambient = Ambient(lambda _, what, left_out: None)
    results: list[Any] = []

    def act() -> None:
        thread = threading.Thread(target=lambda: results.append(os.nice(0)))
        thread.start()
        thread.join()
        assert os.kill(os.getpid(), 0) is None

    real = os.setsid
    ambient.inside(ambient.view(), act)
    assert results == [os.nice(0)]
    assert os.setsid is real


UNPRIVILEGED = """
    import os, resource
    from safeloader.runtime.isolation import Ambient, Irreversible

    told = []
    ambient = Ambient(lambda _, what, left_out: told.append((what, left_out)))
    DROP
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def refused(act, lenient=False):
        view = ambient.view(lenient=lenient)
        try:
            ambient.inside(view, act)
        except Irreversible as error:
            return error.what
        return None

    print(refused(lambda: os.nice(5)), refused(lambda: os.nice(0)), os.nice(0))
    print(refused(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))), resource.getrlimit(resource.RLIMIT_NOFILE) == (files, most))
    print(refused(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))) is not None, resource.getrlimit(resource.RLIMIT_NOFILE) == (files, most))
    print(refused(lambda: os.nice(5), lenient=True), os.nice(0), told)
    real = os.nice
    print(refused(lambda: real(5)), told[1:])
    idle = os.sched_param(0)
    print(refused(lambda: os.sched_setscheduler(0, os.SCHED_BATCH, idle)), refused(lambda: os.sched_setscheduler(0, os.SCHED_IDLE, idle)) is not None, os.sched_getscheduler(0))
"""

OTHER_USER = """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setuid(65534)
"""

ROOT_OF_A_CONTAINER = """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    kinds = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert libc.capget(header, kinds) == 0
    for kind in range(3):
        kinds[kind] &= ~(1 << 23 | 1 << 24)  # CAP_SYS_NICE, CAP_SYS_RESOURCE
    assert libc.capset(header, kinds) == 0
"""


@pytest.mark.parametrize("drop", [OTHER_USER, ROOT_OF_A_CONTAINER], ids=["other user", "root of a container"])
def test_without_privilege_what_only_root_could_undo_is_refused(tmp_path: Path, drop: str) -> None:
    out = run_script(program(tmp_path, UNPRIVILEGED.replace("    DROP\n", drop.lstrip("\n")))).splitlines()
    assert out == [
        "os.nice(5) None 0",
        "None True",
        "True True",
        "None 0 [('os.nice(5)', True)]",
        "None [('priority (now 5, and 0 before)', False)]",
        "None True 0",
    ]


# ---------------------------------------------------------------- two threads


class DrawsSlowly:
    """Samples that draw from all global generators, and let other threads run meanwhile."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[float, float, float]:
        drawn = float(torch.rand(()))
        time.sleep(0.002)
        return drawn, random.random(), float(np.random.rand())


def _drawn(workers: int, seeded: int, policy: Policy) -> list[Any]:
    generator = torch.Generator().manual_seed(seeded)
    return list(DataLoader(DrawsSlowly(), batch_size=None, num_workers=workers, generator=generator, policy=policy))


@pytest.mark.usefixtures("forked")
def test_loaders_of_two_threads_do_not_mix_in_the_main_process() -> None:
    expected = [_drawn(2, seeded, Policy()) for seeded in (1, 2)]
    before = program_state()
    here = Policy(max_processes=0)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda seeded: _drawn(2, seeded, here), (1, 2))) == expected
    assert program_state() == before


class ReadsAnother:
    """Its samples are those of another loader, which a thread of its own iterates."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: list(inline([index, 5], num_workers=1))).result(60)[0]


def test_a_sample_that_waits_for_another_threads_loader_gets_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inline_turn, "PATIENCE", 0.2)
    assert list(inline(ReadsAnother(), num_workers=1)) == [0, 1]
    assert "mix with those of another thread" in caplog.text


def test_a_turn_that_an_interrupt_left_open_ends_with_the_next_one() -> None:
    assert inline_turn._turn.acquire()
    inline_turn.in_turn(lambda: None, lambda: pytest.fail("nobody else is in"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(inline_turn.in_turn, lambda: None, lambda: pytest.fail("nobody is in any more")).result()
