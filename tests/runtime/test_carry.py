"""How users' own classes are carried: `safeloader.carry`, copyreg, ForkingPickler, and other packages' contexts."""

from __future__ import annotations

import copyreg
import io
import multiprocessing.context
import multiprocessing.reduction
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing

import safeloader
from safeloader import DataLoader, NotCarriableError
from safeloader.runtime import by_value
from tests.runtime.carrying import run_script, through, written


class Archive:
    """Something that pickle cannot take apart: it holds a thread."""

    closed = False

    def __init__(self, path: str, made_by: str = "its user") -> None:
        self.path, self.made_by = path, made_by
        self.thread = threading.Thread()

    def close(self) -> None:
        self.closed = True


class Derived(Archive):
    pass


def reduce_archive(archive: Archive) -> Any:
    return Archive, (archive.path, "reduce_archive")


def reduce_otherwise(archive: Archive) -> Any:
    return Archive, (archive.path, "reduce_otherwise")


@pytest.fixture
def registered() -> Iterator[None]:
    safeloader.carry.register(Archive, reduce_archive)
    yield
    safeloader.carry.unregister(Archive)


def test_a_registered_class_goes_as_its_function_says_and_its_subclasses_do_not(registered: None) -> None:
    assert through([Archive("a")])[0].made_by == "reduce_archive"
    with pytest.raises(NotCarriableError):
        by_value.pack([Derived("a")])


class Holding:
    def __init__(self) -> None:
        self.archive = Archive("a")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, n: int) -> str:
        return self.archive.made_by


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_have_it_and_the_report_says_so(method: str, registered: None) -> None:
    with DataLoader(Holding(), batch_size=None, num_workers=1, multiprocessing_context=method) as loader:
        assert list(loader) == ["reduce_archive"] * 4
        assert loader.report().reopened == ["dataset.archive (a tests.runtime.test_carry.Archive)"]


def test_what_it_made_is_closed_with_the_worker(registered: None) -> None:
    from safeloader.runtime.by_value.rebuild import gathering

    with gathering() as held:
        (made,), _ = by_value.read(written(by_value.pack((Archive("a"),))))
    assert not made.closed
    held.close()
    assert made.closed


def test_an_error_of_its_function_names_the_attribute(registered: None) -> None:
    archive = Archive("a")
    del archive.path
    with pytest.raises(NotCarriableError, match="AttributeError") as caught:
        by_value.pack({"index": archive}, what={"dataset": {"index": archive}})
    assert caught.value.path == "dataset['index']"


def test_a_class_that_is_registered_twice_is_an_error_that_names_both(registered: None) -> None:
    with pytest.raises(
        ValueError, match=r"test_carry\.Archive is registered already, with .*\.reduce_archive; .*reduce_otherwise"
    ):
        safeloader.carry.register(Archive, reduce_otherwise)
    safeloader.carry.register(Archive, reduce_archive)  # the same once more, as a module that is loaded again does
    assert through(Archive("a")).made_by == "reduce_archive"
    safeloader.carry.unregister(Archive)
    safeloader.carry.register(Archive, reduce_otherwise)
    assert through(Archive("a")).made_by == "reduce_otherwise"


@pytest.mark.parametrize("wrong", [(Archive("a"), reduce_archive), (Archive, "reduce"), (None, None)])
def test_what_cannot_be_registered_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is registered"):
        safeloader.carry.register(*wrong)


def test_what_copyreg_was_taught_is_honoured_before_our_own(registered: None) -> None:
    copyreg.pickle(io.BytesIO, _as_word)  # type: ignore[arg-type]
    copyreg.pickle(Archive, reduce_otherwise)  # type: ignore[arg-type]
    try:
        assert through(io.BytesIO(b"x")) == "word"
        assert through(Archive("a")).made_by == "reduce_archive", "what is registered here goes first"
        safeloader.carry.unregister(Archive)
        assert through(Archive("a")).made_by == "reduce_otherwise"
    finally:
        del copyreg.dispatch_table[io.BytesIO], copyreg.dispatch_table[Archive]


def _as_word(_: Any) -> Any:
    return str, ("word",)


@pytest.mark.parametrize("kind", [type(threading.Lock()), io.BufferedReader, io.TextIOWrapper, Archive])
def test_what_multiprocessing_was_taught_is_honoured_before_our_own(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    with path.open("rb") as binary, path.open() as text:
        things = {type(t): t for t in (threading.Lock(), binary, text, Archive("a"))}
        multiprocessing.reduction.ForkingPickler.register(kind, _as_word)
        try:
            assert through([things[kind]]) == ["word"]
        finally:
            del multiprocessing.reduction.ForkingPickler._extra_reducers[kind]  # type: ignore[attr-defined]


class Lazy(io.BytesIO):
    """A file that knows how it is pickled."""

    def __reduce__(self) -> Any:
        return str, ("its own way",)


class Reader(io.FileIO):
    def __reduce__(self) -> Any:
        return str, ("its own way",)


class Plain(io.FileIO):
    """Another class, and no way of its own."""


def test_a_subclass_keeps_its_class_or_its_own_way(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123")
    with Reader(path) as own, Plain(path) as plain:
        plain.note = "kept"  # type: ignore[attr-defined]
        plain.seek(2)
        assert through([own, Lazy()]) == ["its own way"] * 2
        with through(plain) as made:
            assert (type(made), made.note, made.read()) == (Plain, "kept", b"23")


# ---------------------------------------------------------------- contexts


@pytest.mark.parametrize("package", ["multiprocess", "billiard", "torch.multiprocessing"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_contexts_of_other_packages_are_accepted(package: str, method: str) -> None:
    module: Any = torch.multiprocessing if package == "torch.multiprocessing" else pytest.importorskip(package)
    loader = DataLoader(range(4), num_workers=1, multiprocessing_context=module.get_context(method))  # type: ignore[arg-type]
    assert isinstance(loader.multiprocessing_context, multiprocessing.context.BaseContext)
    assert loader.multiprocessing_context.get_start_method() == method
    later = DataLoader(range(4), num_workers=1)  # type: ignore[arg-type]
    later.multiprocessing_context = module.get_context(method)
    assert later.multiprocessing_context.get_start_method() == method


def test_a_fork_context_of_another_package_is_refused_like_any_other() -> None:
    module = pytest.importorskip("multiprocess")
    with pytest.warns(UserWarning, match="multiprocessing_context asks for fork"):
        loader = DataLoader(range(4), num_workers=1, multiprocessing_context=module.get_context("fork"))  # type: ignore[arg-type]
    assert loader.multiprocessing_context.get_start_method() == "spawn"


def test_what_multiprocess_shares_between_processes_stays_shared(tmp_path: Path) -> None:
    pytest.importorskip("multiprocess")
    program = """
        import json, multiprocess
        from safeloader import DataLoader
        context = multiprocess.get_context("spawn")
        class Shared:
            lock, value, queue = context.Lock(), context.Value("i", 3), context.Queue()
            def __init__(self):
                self.held = self.lock, self.value, self.queue
            def __len__(self):
                return 4
            def __getitem__(self, n):
                lock, value, queue = self.held
                with lock:
                    value.value += 1
                queue.put(n)
                return n
        dataset = Shared()
        with DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context) as loader:
            given = list(loader)
        queued = sorted(dataset.queue.get(timeout=30) for _ in range(4))
        print(json.dumps([given, dataset.value.value, queued]))
    """
    assert run_script(tmp_path, program) == [[0, 1, 2, 3], 7, [0, 1, 2, 3]]


# ---------------------------------------------------------------- what it costs


def test_nobody_imports_what_nobody_holds() -> None:
    code = """
import sys
from safeloader.runtime import by_value
from safeloader.runtime.by_value import pickler
by_value.pack([{"a": [1, 2]}, print, object()])
import safeloader.runtime.child.loop
print(sorted(m for m in sys.modules if m.startswith("safeloader.runtime.handles.") or m in ("sqlite3", "h5py")))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert said.stdout.strip() == "['safeloader.runtime.handles.table']"
