"""Each mend of FFCV, and the fault that is there without it."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.runtime.harness import environment

HERE = "import sys, warnings; warnings.simplefilter('ignore')\n"


def run(program: str, timeout: float = 110, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HERE + program], capture_output=True, text=True, timeout=timeout, check=False,
        env=environment(**variables),
    )  # fmt: skip


@pytest.mark.slow
def test_distutils_is_gone_from_newer_pythons() -> None:
    gone = "sys.modules['distutils'] = None\n"
    bare = run(gone + "import ffcv")
    assert "distutils" in bare.stderr and bare.returncode
    mended = run(gone + "from safeloader.ffcv.require import require; require(); print('fine')")
    assert mended.stdout.strip() == "fine", mended.stderr


@pytest.mark.slow
def test_torchs_number_of_threads() -> None:
    program = "import torch; torch.set_num_threads(3)\n{}\nprint(torch.get_num_threads())"
    assert run(program.format("import ffcv")).stdout.strip() == "1"
    assert run(program.format("from safeloader.ffcv.require import require; require()")).stdout.strip() == "3"


def test_an_import_compiles_nothing() -> None:
    program = """
import numba.core.event as event
compiled = event.RecordingListener()
event.register("numba:compile", compiled)
{}
import numba.typed
from ffcv.fields import rgb_image
print(len(compiled.buffer) > 0, type(rgb_image.IMAGE_MODES).__name__, numba.typed.Dict.__module__, *rgb_image.IMAGE_MODES)
"""
    late = "before = dict(rgb_image.IMAGE_MODES); from safeloader.ffcv.require import require; require()"
    late += "\nprint(type(rgb_image.IMAGE_MODES).__name__, before == rgb_image.IMAGE_MODES)"
    bare = run(program.format("import ffcv") + late).stdout.splitlines()
    assert [line.split() for line in bare] == [
        ["True", "Dict", "numba.typed.typeddict", "jpg", "raw"],
        ["dict", "True"],
    ]
    mended = run(program.format("from safeloader.ffcv.require import require; require()"))
    assert mended.stdout.split() == ["False", "dict", "numba.typed.typeddict", "jpg", "raw"], mended.stderr


def test_more_threads_than_cores() -> None:
    import numba
    from ffcv.pipeline.compiler import Compiler

    most = numba.config.NUMBA_NUM_THREADS
    with pytest.raises(ValueError, match="number of threads must be between"):
        Compiler.set_num_threads.__wrapped__(most + 1)
    Compiler.set_num_threads(most + 1)
    assert Compiler.num_threads == most
    Compiler.set_num_threads(1)


class Node:
    def __init__(self, jitted: bool) -> None:
        self.is_jitted = jitted


def test_group_operations_runs_for_ever() -> None:
    """Issue 396: compiled, not compiled, compiled."""
    from ffcv.pipeline.graph import Graph

    nodes = [Node(True), Node(False), Node(True)]
    graph = SimpleNamespace(
        root_nodes={nodes[0]: ""}, node_to_id={node: number for number, node in enumerate(nodes)},
        adjacency_list=defaultdict(list, {nodes[0]: [nodes[1]], nodes[1]: [nodes[2]]}),
    )  # fmt: skip

    def too_long(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises((TimeoutError, MemoryError)):
            Graph.group_operations.__wrapped__(graph)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert Graph.group_operations(graph) == [[0], [1], [2]]


def _stage(number: int) -> Any:
    def add(x):  # type: ignore[no-untyped-def]
        return x + number

    return add


def test_the_same_function_is_compiled_each_time() -> None:
    from ffcv.pipeline.compiler import Compiler

    bare = Compiler.compile.__wrapped__
    assert bare(_stage(1), "i8(i8)") is not bare(_stage(1), "i8(i8)")
    one = Compiler.compile(_stage(1), "i8(i8)")
    assert one is Compiler.compile(_stage(1), "i8(i8)")
    other = Compiler.compile(_stage(2), "i8(i8)")
    assert (one(5), other(5)) == (6, 7)


COLD = """
import sys
from pathlib import Path
from safeloader.ffcv import Loader
from safeloader import Policy
from tests.ffcv import data
import numba.core.event as event
compiled = event.RecordingListener()
event.register("numba:compile", compiled)
loader = Loader(sys.argv[1], 10, int(sys.argv[2]), seed=3, pipelines=data.pipelines(), policy=Policy(ffcv_mode="trainer"))
batch = next(iter(loader))
print(*{e.data["dispatcher"].py_func.__name__ for _, e in compiled.buffer}, "and", float(batch[0].sum()))
loader.close()
"""


def cold(beton: Path, workers: int, cache: Path) -> tuple[set[str], str]:
    """(what was compiled, a sum over the first batch)"""
    done = subprocess.run(
        [sys.executable, "-c", HERE + COLD, str(beton), str(workers)], capture_output=True, text=True, timeout=200,
        check=True, env=environment(NUMBA_CACHE_DIR=str(cache)),
    )  # fmt: skip
    compiled, _, total = done.stdout.partition(" and ")
    return set(compiled.split()), total


@pytest.mark.slow
def test_code_is_kept_on_disk(beton: Path, tmp_path: Path) -> None:
    compiled, total = cold(beton, 1, tmp_path)
    assert {"decode_guarded", "flip_keyed", "imdecode"} < compiled
    own_seed = {"_seed", "<lambda>"}
    assert cold(beton, 1, tmp_path) == (own_seed, total)
    compiled, _ = cold(beton, 2, tmp_path)
    assert "decode_guarded" in compiled, "for two threads it is other code"
    assert cold(beton, 1, tmp_path) == (own_seed, total)


BY_NAME = """
import numpy as np
from safeloader.ffcv import patches
patches.apply(leave_out=sys.argv[1:])
from ffcv import libffcv
from ffcv.transforms.utils import fast_crop
from numba import njit
compiled = njit(cache=True)(libffcv.memcpy)
source, first, second = np.arange(5), np.zeros(5, int), np.zeros(5, int)
compiled(source, first)
libffcv.memcpy(source, second)
print(first.tolist() == second.tolist() == source.tolist(), fast_crop.ctypes_resize is libffcv.ctypes_resize,
      sum(compiled.stats.cache_hits.values()))
"""


@pytest.mark.parametrize(("leave_out", "hits"), [([], ["0", "1"]), (["link_by_name"], ["0", "0"])])
def test_code_that_calls_the_library_is_kept_too(leave_out: list[str], hits: list[str], tmp_path: Path) -> None:
    found = []
    for _ in hits:
        done = subprocess.run(
            [sys.executable, "-c", HERE + BY_NAME, *leave_out], capture_output=True, text=True, timeout=100, check=True,
            env=environment(NUMBA_CACHE_DIR=str(tmp_path)),
        )  # fmt: skip
        found.append(done.stdout.split())
    assert found == [["True", "True", count] for count in hits]


SCALE = 2.0


def test_a_key_says_what_a_function_and_its_parts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from safeloader.ffcv import numba_cache

    def made(inner: Any, step: Any = 1) -> Any:
        def outer(value):  # type: ignore[no-untyped-def]
            return inner(value) * SCALE + step

        return outer

    def double(value):  # type: ignore[no-untyped-def]
        return value + value

    def key(function: Any) -> str | None:
        return numba_cache._digest(numba_cache.named(function))

    known = key(made(double))
    assert known is not None
    assert key(made(double)) == known
    others = {key(made(double, step=2)), key(made(lambda value: value)), key(made(double, step=np.arange(3)))}
    assert len(others) == 3 and known not in others
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert key(made(double)) not in {known, *others, None}
    assert key(made(double, step=object())) is None, "of no meaning in another process"


def test_a_type_that_is_changed_in_place_loses_what_is_kept_by_it() -> None:
    import numba
    from ffcv.memory_managers.os_cache import OSCacheManager

    array = numba.uint8[::1]
    numba_cache = {array: "compiled code"}
    ours = OSCacheManager.state_type.fget
    try:
        ours.__wrapped__.fget(None)
        assert array not in numba_cache
    finally:
        array.mutable = True
    assert not ours(None)[0].mutable
    assert array in numba_cache and array.mutable


@pytest.mark.slow
def test_the_same_pipeline_over_indices_of_several_types(make: Any) -> None:
    """numba compiles it for each."""
    from tests.ffcv import data

    for order in ("SEQUENTIAL", "QUASI_RANDOM", "SEQUENTIAL"):
        assert len(list(make(order=order, pipelines=data.centered()))) == 12


FORK = """
import os, threading
from numba.core.compiler_lock import global_compiler_lock as lock
{}
held, release = threading.Event(), threading.Event()
def hold():
    with lock: held.set(); release.wait()
threading.Thread(target=hold).start(); held.wait()
{}
if child := os.fork():
    release.set()
    print("the lock is", "free" if os.waitpid(child, 0)[1] == 0 else "held by nobody")
else:
    os._exit(0 if lock._lock.acquire(blocking=False) else 1)
"""


@pytest.mark.slow
def test_a_fork_while_numba_compiles() -> None:
    assert run(FORK.format("", "")).stdout.strip() == "the lock is held by nobody"
    mended = "from safeloader.ffcv import patches; patches._fork_lock()", "os.register_at_fork(before=release.set)"
    assert run(FORK.format(*mended)).stdout.strip() == "the lock is free"  # what is registered last runs first


def test_a_page_reader_that_meets_an_error(tmp_path: Path) -> None:
    import numpy as np
    from ffcv.memory_managers.process_cache.page_reader import PageReader
    from ffcv.memory_managers.process_cache.schedule import ScheduleExecutor

    short = tmp_path / "short"
    short.write_bytes(b"x" * 1000)

    def reader(path: Path, method: Any) -> tuple[Any, Any]:
        queries: queue.Queue[Any] = queue.Queue()
        loaded: queue.Queue[Any] = queue.Queue()
        queries.put((0, 0))
        queries.put(None)
        memory = np.full((1, 4096), 7, np.uint8)
        try:
            method(SimpleNamespace(fname=str(path), queries=queries, loaded=loaded, memory=memory, page_size=4096))
        except FileNotFoundError as error:
            return error, loaded
        return memory, loaded

    error, loaded = reader(tmp_path / "none", PageReader.run.__wrapped__)
    assert isinstance(error, FileNotFoundError) and loaded.empty(), "the epoch would wait for this page for ever"
    memory, loaded = reader(short, PageReader.run.__wrapped__)
    assert loaded.get() == 0 and memory[0, 2000] == 7, "bytes of an older page, without a word"
    for path, kind in ((tmp_path / "none", FileNotFoundError), (short, OSError)):
        _, loaded = reader(path, PageReader.run)
        executor = ScheduleExecutor("", SimpleNamespace(can_prefetch_at=[()], entering_at=[(0,)]), memory)
        executor.loaded_queue = loaded
        with pytest.raises(kind):
            executor.load_batch(0)


def test_installed_files_are_as_pip_put_them() -> None:
    import base64
    import csv
    import hashlib
    from importlib.metadata import distribution

    found = distribution("ffcv")
    wrong = []
    for name, digest, _ in csv.reader((found.read_text("RECORD") or "").splitlines()):
        if digest:
            data = Path(str(found.locate_file(name))).read_bytes()
            ours = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            wrong += [name] if digest != f"sha256={ours}" else []
    assert not wrong
