"""Mends of FFCV 1.0.2, which has no maintainer: all of them, here, applied when safeloader first imports it.

Installed files are never edited: classes are changed in memory, and plain FFCV loaders of the same program profit.
``tests/ffcv/test_patches.py`` shows each fault without its patch.

================== ==================================================================================================
mend               the fault
================== ==================================================================================================
distutils          ``import ffcv`` needs distutils, which Python 3.12 no longer has
plain_table        ``import ffcv`` compiles for two seconds, for a table of two names that only Python reads
thread_count       importing FFCV, and each loader and epoch, sets torch's number of threads; more workers than cores
                   are a ValueError
group_operations   a pipeline that goes back to compiled code after a tensor operation: the constructor never returns
                   (a set is aliased; libffcv/ffcv issue 396)
compile_once       each loader compiles the same functions anew: 5 s and 33 MB that are never freed
frozen_types       a pipeline that is compiled for a second type of array fails (KeyError), and freed code complains:
                   numba's one type of byte arrays is made read-only in place, so that what is kept by it is lost
link_by_name       ... and so does each process: numba keeps no code that calls a library by its address, and finds none
                   that is made of compiled parts (see `kept`)
fork_lock          a fork while numba compiles: the child waits for ever for numba's lock
page_readers       a page reader that meets an error dies, and the epoch waits for it for ever; a file that was cut off
                   gives the bytes of an older page
================== ==================================================================================================
"""

from __future__ import annotations

import os
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from safeloader.ffcv import numba_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["MENDS", "apply", "threads_restored"]

_done: set[str] = set()


def apply(leave_out: Collection[str] = ()) -> None:
    """Import FFCV and mend it. Done once; `leave_out` is for tests that show the faults.

    Raises:
        ImportError: FFCV cannot be imported.
    """
    for name, mend in MENDS.items():
        if name not in _done and name not in leave_out:
            mend()
            _done.add(name)


def threads_restored(work: Callable[[], Any]) -> Any:
    """Do something, and put torch's number of threads back."""
    import torch

    before = torch.get_num_threads()
    try:
        return work()
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _replace(cls: Any, name: str, ours: Any, wrap: Callable[[Any], Any] = lambda function: function) -> None:
    """Put a method in the place of FFCV's, which stays reachable as ``__wrapped__``."""
    ours.__wrapped__ = getattr(cls, name)
    setattr(cls, name, wrap(ours))


def _distutils() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import distutils.log  # noqa: F401
    except ImportError:
        package, log = types.ModuleType("distutils"), types.ModuleType("distutils.log")
        package.log = log.warn = log  # type: ignore[attr-defined]  # FFCV imports the name and never uses it
        sys.modules.update({"distutils": package, "distutils.log": log})


def _import_ffcv() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of distutils and ast.Index, for its authors alone
        import ffcv  # noqa: F401


def _plain_table() -> None:
    """Import FFCV with a plain dictionary in the place of numba's."""
    import numba.typed

    numbas = numba.typed.Dict
    numba.typed.Dict = dict
    try:
        threads_restored(_import_ffcv)
    finally:
        numba.typed.Dict = numbas
    from ffcv.fields import rgb_image

    if not isinstance(rgb_image.IMAGE_MODES, dict):  # it was imported already; reading the table compiles as well
        rgb_image.IMAGE_MODES = {"jpg": 0, "raw": 1}


def _thread_count() -> None:
    threads_restored(_import_ffcv)
    import numba
    from ffcv.pipeline.compiler import Compiler

    def set_num_threads(cls: Any, n: int) -> None:
        most = int(numba.config.NUMBA_NUM_THREADS)
        cls.num_threads = min(n, most) if n >= 1 else most
        numba.set_num_threads(cls.num_threads)

    _replace(Compiler, "set_num_threads", set_num_threads, classmethod)


def _group_operations() -> None:
    from ffcv.pipeline.graph import Graph

    def group_operations(self: Any) -> list[list[int]]:
        front: Any = dict.fromkeys(self.root_nodes)  # in order, so that the same pipeline makes the same code
        stages: list[list[int]] = []
        while front:
            stage: list[int] = []
            later: Any = {}
            compiled = len(stages) % 2 == 0
            while front:
                node = next(iter(front))
                del front[node]
                if node.is_jitted == compiled or node.is_jitted is None:
                    stage.append(self.node_to_id[node])
                    front.update(dict.fromkeys(self.adjacency_list[node]))
                else:
                    later[node] = None
            stages.append(stage)
            front = later
        return stages

    _replace(Graph, "group_operations", group_operations)


# ---------------------------------------------------------------- compiling

_compiled: dict[Any, Any] = {}
_in_stage = False


def _compile_once() -> None:
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.graph import Graph

    def compile_(cls: Any, code: Any, signature: Any = None) -> Any:
        if not cls.is_enabled:
            return code
        parallel = bool(getattr(code, "is_parallel", False)) and cls.num_threads > 1
        if not _in_stage and signature is None:  # a part of an operation: compiled with it
            return _njit(code, signature, parallel)
        key = (numba_cache.named(code), str(signature), parallel)
        if key not in _compiled:
            _compiled[key] = _njit(code, signature, parallel)
        return _compiled[key]

    original = Graph.codegen_stage

    def codegen_stage(*args: Any) -> Any:
        global _in_stage  # noqa: PLW0603 - FFCV compiles in one thread
        _in_stage = True
        try:
            return original(*args)
        finally:
            _in_stage = False

    _replace(Compiler, "compile", compile_, classmethod)
    _replace(Graph, "codegen_stage", codegen_stage)


def _njit(code: Any, signature: Any, parallel: bool) -> Any:
    options = {"fastmath": True, "nogil": True, "error_model": "numpy", "parallel": parallel}
    return numba_cache.njit_kept(code, signature, options)


def _frozen_types() -> None:
    from ffcv.memory_managers.os_cache import OSCacheManager
    from ffcv.pipeline.compiler import Compiler
    from numba import types as kinds

    frozen, table = kinds.Array(kinds.uint8, 1, "C", readonly=True), kinds.Array(kinds.uint64, 1, "C")

    def state_type(_: Any) -> Any:
        return kinds.Tuple([frozen, table, table])

    def compile_reader(self: Any) -> Any:
        def read(address, mem_state):  # type: ignore[no-untyped-def]  # compiled
            size = mem_state[2][np.searchsorted(mem_state[1], address)]
            return mem_state[0][address : address + size]

        return Compiler.compile(read, frozen(kinds.uint64, self.state_type))

    _replace(OSCacheManager, "compile_reader", compile_reader)
    _replace(OSCacheManager, "state_type", state_type, property)


# ---------------------------------------------------------------- forks and files


def _fork_lock() -> None:
    from numba.core.compiler_lock import global_compiler_lock as lock

    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def _page_readers() -> None:
    from ffcv.memory_managers.process_cache.page_reader import PageReader
    from ffcv.memory_managers.process_cache.schedule import ScheduleExecutor

    def run(self: Any) -> None:
        try:
            with open(self.fname, "rb", buffering=0) as file:
                while (query := self.queries.get()) is not None:
                    page, slot = query
                    _read_page(file, self.memory[slot], int(page) * self.page_size)
                    self.loaded.put(page)
        except Exception as error:
            self.loaded.put(error)

    def load_batch(self: Any, batch: int) -> None:
        for page in self.schedule.can_prefetch_at[batch]:
            self.queries.put((page, self.schedule.page_to_slot[page]))
        for page in self.schedule.entering_at[batch]:
            while page not in self.loaded:
                heard = self.loaded_queue.get()
                if isinstance(heard, Exception):
                    self.loaded_queue.put(heard)  # for whoever asks again
                    raise heard
                self.loaded.add(heard)
        self.next_batch = batch + 1

    _replace(PageReader, "run", run)
    _replace(ScheduleExecutor, "load_batch", load_batch)


def _read_page(file: Any, memory: Any, offset: int) -> None:
    rest = memoryview(memory)
    while rest:
        count = os.preadv(file.fileno(), [rest], offset)
        if not count:
            raise OSError(f"{file.name} ends at byte {offset}, in the middle of a page: it was cut off")
        rest, offset = rest[count:], offset + count


MENDS: dict[str, Callable[[], None]] = {
    "distutils": _distutils,
    "plain_table": _plain_table,
    "thread_count": _thread_count,
    "group_operations": _group_operations,
    "compile_once": _compile_once,
    "frozen_types": _frozen_types,
    "link_by_name": numba_cache.link_by_name,
    "fork_lock": _fork_lock,
    "page_readers": _page_readers,
}
