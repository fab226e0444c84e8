"""What cannot be carried, and in which words that is said."""

from __future__ import annotations

import concurrent.futures
import ctypes
import io
import multiprocessing
import os
import socket
import sys
import threading
import time
from typing import Any

import pytest
import torch

from safeloader.errors import NotCarriableError
from safeloader.runtime import by_value
from safeloader.runtime.handles import shared_maps
from tests.runtime.carrying import in_main, through, written

# ------------------------------------------------------------------ refusals


class Holder:
    """A dataset that holds one thing two levels down, and whose parts refer back to it."""

    thing: Any
    owner: Any

    def __init__(self, thing: Any) -> None:
        self.name = "fine"
        self.transform = type(self).__new__(type(self))
        self.transform.thing = thing
        self.transform.owner = self


class Raises:
    def __reduce__(self) -> Any:
        raise KeyError("no such year")


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, threading.Thread()


def _generator() -> Any:
    yield 1


def _a_pipe() -> int:
    """The end of a pipe that is read from."""
    reads, writes = os.pipe()
    os.close(writes)
    return reads


def _begun_pool() -> Any:
    """It had a thread."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
    return pool


_REFUSED: dict[str, tuple[Any, str, str]] = {
    "thread": (lambda: threading.Thread(target=print), "a threading.Thread", "worker_init_fn"),
    "pool of threads": (_begun_pool, "ThreadPoolExecutor", "worker_init_fn"),
    "pipe": (lambda: os.fdopen(_a_pipe(), "rb"), "an _io.BufferedReader", "belongs to one process"),
    "text of a pipe": (lambda: os.fdopen(_a_pipe()), "an _io.TextIOWrapper", "belongs to one process"),
    "generator": (_generator, "a generator", "keep the function"),
    "socket": (socket.socket, "a socket.socket", "keep the address"),
    "pointer": (lambda: ctypes.pointer(ctypes.c_int(1)), "LP_c_int", "a pointer is an address"),
    "own __reduce__": (Raises, "Raises", "its own __reduce__"),
    "result with gradient": (lambda: torch.ones(2, requires_grad=True) * 2, "a torch.Tensor", "detach()"),
    "memory of another device": (lambda: torch.ones(2, device="meta").untyped_storage(), "on meta", "the CPU"),
}


@pytest.mark.parametrize("kind", list(_REFUSED))
def test_what_cannot_be_carried_is_named_with_its_place_its_kind_and_what_to_try(kind: str) -> None:
    make, described, advice = _REFUSED[kind]
    thing = make()
    try:
        with pytest.raises(NotCarriableError) as caught:
            by_value.pack((Holder(thing), 3), what={"dataset": Holder(thing), "n": 3})
    finally:
        if hasattr(thing, "close"):
            thing.close()
    error = caught.value
    assert error.path == "dataset.transform.thing"
    assert error.what.startswith("dataset.transform.thing (a")
    assert described in error.what
    assert "cannot be sent to a worker process" in error.what
    assert advice in error.hint
    assert error.__cause__ is not None


def test_the_exception_of_an_objects_own_method_is_the_cause() -> None:
    with pytest.raises(NotCarriableError, match="no such year") as caught:
        by_value.pack(Holder(Raises()))
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.path == "object.transform.thing"


_SCRIPT = """
    import functools, threading
    LOCK = threading.Thread()
    def reads_global(batch):
        with LOCK:
            return batch
    def make():
        lock = threading.Thread()
        return lambda batch: (lock, batch)
    captures = make()
    class Data:
        def __getitem__(self, i):
            with LOCK:
                return i
    class Derived(Data):
        pass
    class WithAttribute:
        lock = LOCK
    class Rows(list):
        pass
    def default(batch, lock=LOCK):
        return batch
    partial = functools.partial(print, 1, end=LOCK)
    method = functools.partial(Data().__getitem__, 3)
"""


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("reads_global", "root → global variable 'LOCK'"),
        ("captures", "root → captured variable 'lock'"),
        ("default", "root → default of 'lock'"),
        ("partial", "root.keywords['end']"),
        ("method", "root.func.__func__ → global variable 'LOCK'"),
        ("Data()", "root.__getitem__ → global variable 'LOCK'"),
        ("Derived()", "root → base class Data.__getitem__ → global variable 'LOCK'"),
        ("WithAttribute()", "root.lock"),
        ("Rows([1, 2, LOCK])", "root[2]"),
        ("{'a': [1, {'b': (LOCK,)}]}", "root['a'][1]['b'][0]"),
        ("{LOCK: 1}", "root → key <Thread(Thread-"),
        ("{1, LOCK}", "root → an element"),
    ],
)
def test_the_path_leads_through_functions_classes_and_containers(expression: str, path: str) -> None:
    root = eval(expression, in_main(_SCRIPT))
    with pytest.raises(NotCarriableError) as caught:
        by_value.pack(root, what={"root": root})
    assert caught.value.path.startswith(path)
    assert "threading.Thread" in caught.value.what


def test_slots_and_properties_are_looked_into() -> None:
    with pytest.raises(NotCarriableError) as caught:
        by_value.pack(Slotted(), what={"dataset": Slotted()})
    assert caught.value.path == "dataset.b"


def test_a_lock_made_for_fork_is_refused_where_the_system_does_not_tell_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_maps, "_mapped_here", lambda: iter(()))  # as on macOS
    lock = multiprocessing.get_context("fork").Lock()
    with pytest.raises(NotCarriableError, match="fork context") as caught:
        by_value.pack(Holder(lock), what={"dataset": Holder(lock)})
    assert caught.value.path == "dataset.transform.thing"
    assert 'get_context("spawn")' in caught.value.hint


def test_one_bad_entry_among_a_million_is_found_in_seconds() -> None:
    made: list[Any] = [0] * 1_000_000
    made[777_777] = threading.Thread()
    start = time.monotonic()
    with pytest.raises(NotCarriableError) as caught:
        by_value.pack(made, what={"files": made})
    assert caught.value.path == "files[777777]"
    assert time.monotonic() - start < 8


def test_what_is_nested_too_deeply_is_said_to_be_so() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotCarriableError, match="nested too deeply"):
        by_value.pack(deep)


def test_a_shared_object_is_refused_in_a_message() -> None:

    with pytest.raises(NotCarriableError, match="another process") as caught:
        by_value.dumps([multiprocessing.get_context("spawn").Lock()])
    assert caught.value.path == "object[0]"
    assert "start" in caught.value.hint


def test_standard_streams_stay_the_readers_own() -> None:
    assert through(io.StringIO("kept")).read() == "kept"
    packed = by_value.pack(in_main("import sys\ndef f(out=sys.stderr): return out")["f"])
    assert by_value.read(written(packed))[0]() is sys.stderr
