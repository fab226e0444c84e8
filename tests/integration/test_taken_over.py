"""Whoever makes torch's multiprocess iterator himself has it replaced by ``patch()``, or is named."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as Earlier
from torch.utils.data.dataloader import _DatasetKind, _MultiProcessingDataLoaderIter

import safeloader
from safeloader import DataLoader, Policy, WorkerPool, unprotected
from tests.integration.killing import Killing
from tests.runtime.harness import gone, processes_of
from tests.until import until

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("forked")]


class Subclass(Earlier[Any]):
    """Defined before the patch."""


class Own(_MultiProcessingDataLoaderIter):
    """An iterator of its own, which has to do with torch's queues."""

    def _try_put_index(self) -> None:
        super()._try_put_index()  # type: ignore[no-untyped-call]


class Counting(_MultiProcessingDataLoaderIter):
    """One that has not."""

    def __init__(self, loader: Any) -> None:
        self.counts = [loader.num_workers]
        super().__init__(loader)  # type: ignore[no-untyped-call]

    def __next__(self) -> Any:
        self.counts.append(self._num_yielded)
        return super().__next__()  # type: ignore[no-untyped-call]

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        super()._reset(loader, first_iter)  # type: ignore[no-untyped-call]
        self.counts.append(-1)


class ByName(_MultiProcessingDataLoaderIter):
    def __init__(self, loader: Any) -> None:
        _MultiProcessingDataLoaderIter.__init__(self, loader)  # type: ignore[no-untyped-call]


class AfterData(_MultiProcessingDataLoaderIter):
    def _next_data(self) -> Any:
        return super()._next_data()  # type: ignore[no-untyped-call]


class WithOwn(Earlier[Any]):
    kind: type = Own

    def _get_iterator(self) -> Any:
        return self.kind(self)


def _sums(batches: Any) -> list[float]:
    return [float(batch[1].sum()) for batch in batches]


def _expected(folder: Path, epochs: int = 1, **more: Any) -> list[float]:
    torch.manual_seed(0)
    loader = Earlier(Killing(folder, None), 4, shuffle=True, num_workers=2, multiprocessing_context="fork", **more)
    return [total for _ in range(epochs) for total in _sums(loader)]


# ---------------------------------------------------------------- taken over


def _subclass(loader: Earlier[Any]) -> Iterator[Any]:
    return iter(loader)


def _direct(loader: Earlier[Any]) -> Iterator[Any]:
    return _MultiProcessingDataLoaderIter(loader)  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize("way", [_subclass, _direct], ids=["subclass", "iterator made directly"])
@pytest.mark.parametrize("exists", [True, False], ids=["loader made before", "loader made after"])
def test_a_loader_that_is_not_safeloader_s_survives_with_torch_s_bytes(
    way: Any, exists: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _expected(tmp_path, epochs=2)
    make = lambda: Subclass(Killing(tmp_path), 4, shuffle=True, num_workers=2)  # noqa: E731
    loader = make() if exists else None
    safeloader.patch()
    try:
        loader = loader if loader is not None else make()
        assert not isinstance(loader, DataLoader)
        torch.manual_seed(0)
        with caplog.at_level(logging.WARNING, "safeloader"):
            assert _sums(way(loader)) + _sums(way(loader)) == expected
        assert Killing(tmp_path).killed
        assert "was killed by SIGKILL" in caplog.text
        assert "NOT protected" not in caplog.text
    finally:
        safeloader.unpatch()
    torchs = _direct(Subclass(Killing(tmp_path, None), 4, num_workers=1, multiprocessing_context="fork"))
    assert type(torchs) is _MultiProcessingDataLoaderIter
    list(torchs)  # torch's workers take five seconds to end where something is left


@pytest.mark.usefixtures("patched")
def test_its_epochs_are_those_of_one_loader_in_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safeloader.observe import recorder

    monkeypatch.setattr(recorder, "_kept", [])  # what is kept is kept to the program's end: here to the test's
    kept = recorder.keep_recorders()
    loader = Subclass(Killing(tmp_path, None), 4, num_workers=2, persistent_workers=True)
    assert _sums(loader) != []
    assert _sums(loader) != []
    assert [(one.report().batches, one.report().epochs) for one in kept] == [(16, 2)]


class FastaiLike:
    """A loader that derives from nothing, with just what torch's iterator asks for, and is its own dataset."""

    _IterableDataset_len_called, _auto_collation, drop_last, in_order = None, False, False, True
    generator, prefetch_factor, persistent_workers, pin_memory, pin_memory_device = None, 2, False, False, ""
    _dataset_kind, timeout, num_workers, worker_init_fn = _DatasetKind.Iterable, 0, 2, None
    multiprocessing_context = torch.multiprocessing

    def __init__(self, folder: Path, bad: int | None) -> None:
        self.inner, self.dataset = Killing(folder, bad, length=16), self
        self._index_sampler = iter(int, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_index_sampler"}

    def collate_fn(self, batch: Any) -> Any:
        return batch

    def _get_shared_seed(self) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        yield from (self.inner[index] for index in range(info.id, 16, info.num_workers))


@pytest.mark.usefixtures("patched")
def test_a_loader_that_is_no_loader_of_torch_s_survives(tmp_path: Path) -> None:
    safeloader.unpatch()
    torch.manual_seed(0)
    expected = _sums((None, batch[1]) for batch in _direct(FastaiLike(tmp_path, None)))  # type: ignore[arg-type]
    safeloader.patch()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody asked for fork
        got = _sums((None, batch[1]) for batch in _direct(FastaiLike(tmp_path, 13)))  # type: ignore[arg-type]
    assert got == expected
    assert len(got) == 16
    assert Killing(tmp_path).killed
    loader = FastaiLike(tmp_path, None)
    assert len(list(_direct(loader))) == 16  # type: ignore[arg-type]
    gone_too = weakref.ref(loader)
    del loader
    gc.collect()
    assert gone_too() is None, "it is its own dataset, and nothing keeps that"


class SubclassOfOurs(DataLoader[Any]):
    """Defined after the patch, with torch's iterator or its own."""

    kind: type = _MultiProcessingDataLoaderIter

    def _get_iterator(self) -> Any:
        return self.kind(self)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("base", [WithOwn, SubclassOfOurs])
@pytest.mark.usefixtures("patched")
def test_a_subclass_of_torch_s_iterator_that_needs_no_queue_survives(
    base: Any, persistent: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    safeloader.unpatch()
    expected = _expected(tmp_path, epochs=2, persistent_workers=persistent)
    safeloader.patch()
    torch.manual_seed(0)
    loader = base(Killing(tmp_path), 4, shuffle=True, num_workers=2, persistent_workers=persistent)
    loader.kind = Counting
    with caplog.at_level(logging.WARNING, "safeloader"):
        batches = iter(loader)
        got = _sums(batches)
        assert isinstance(batches, Counting)
        assert batches.counts == [2, -1, *range(9)]
        assert got + _sums(loader) == expected
    assert "was killed by SIGKILL" in caplog.text
    assert "NOT protected" not in caplog.text
    if persistent:
        batches._shutdown_workers()  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("patched")
def test_a_loader_of_safeloader_s_that_makes_torch_s_iterator_keeps_policy_and_report(tmp_path: Path) -> None:
    with WorkerPool(1, start_method="forkserver") as pool:
        loader = SubclassOfOurs(Killing(tmp_path), 4, num_workers=2, policy=Policy(pool=pool), name="train")
        batches: Any = iter(loader)
        assert len(_sums(batches)) == 8
        assert loader.report().causes == {"died": 1}
        assert loader.report().batches == 8
        assert loader.state_dict()["epoch"] == 0


@pytest.mark.parametrize("made", [True, False], ids=["safeloader's loader", "torch's iterator"])
@pytest.mark.usefixtures("patched")
def test_both_ways_to_begin_say_the_same_of_what_is_asked_for_in_vain(
    made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELOADER_START_METHOD", "spawn")
    monkeypatch.setenv("SAFELOADER_PRELOAD", "numpy")
    make: Any = DataLoader if made else Subclass
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        begun: Any = iter(make(range(4), num_workers=1, multiprocessing_context="fork"))
    assert sorted(str(one.message)[-7:] for one in said) == ["[SL101]", "[SL103]"]
    begun._shutdown_workers()


# ---------------------------------------------------------------- named


@pytest.mark.parametrize("kind", [Own, ByName, AfterData])
@pytest.mark.usefixtures("patched")
def test_an_iterator_that_has_to_do_with_what_loads_in_torch_stays_as_it_is(kind: Any, tmp_path: Path) -> None:
    loader = WithOwn(Killing(tmp_path, None), 4, num_workers=1, multiprocessing_context="fork")
    loader.kind = kind
    batches: Any = iter(loader)
    assert type(batches) is kind
    assert len(_sums(batches)) == 8
    assert f"{kind.__qualname__})" in unprotected.report()


@pytest.mark.usefixtures("patched")
def test_a_loader_with_an_iterator_of_its_own_is_named_once_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert unprotected.report() == ""
    with caplog.at_level(logging.WARNING, "safeloader"):
        for _ in range(2):
            loader = WithOwn(Killing(tmp_path, None), 4, num_workers=1, multiprocessing_context="fork")
            assert len(_sums(loader)) == 8
    assert caplog.text.count("NOT protected") == 1
    assert "WithOwn over Killing, 1 workers" in caplog.text
    assert "a class of its own" in caplog.text
    assert "WithOwn over Killing, 1 workers (2 times)" in unprotected.report()


PROGRAM = """
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

class Own(_MultiProcessingDataLoaderIter):
    def _next_data(self):
        return super()._next_data()

class WithOwn(DataLoader):
    def _get_iterator(self):
        return Own(self)

if __name__ == "__main__":
    print(len(list(WithOwn(list(range(8)), 4, num_workers=1))))
"""


def test_the_report_of_run_ends_with_what_was_not_protected(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    said = subprocess.run(
        [sys.executable, "-m", "safeloader", "run", tmp_path / "program.py"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (0, "2\n"), said.stderr
    last = said.stderr.strip().rpartition("\n\n")[2]
    assert last.startswith("NOT protected by safeloader:\n  __main__.WithOwn over list, 1 workers (1 times): "), last


# ---------------------------------------------------------------- what programs do with torch's iterator


def test_the_iterator_is_torch_s_multiprocess_iterator_and_is_shut_down_as_one(tmp_path: Path) -> None:
    loader = DataLoader(Killing(tmp_path, None), 4, num_workers=2, persistent_workers=True)
    iterator: Any = iter(loader)
    assert isinstance(iterator, _MultiProcessingDataLoaderIter)
    next(iterator)
    pids = [process.pid for process in processes_of(loader)]
    assert [worker.pid for worker in iterator._workers] == pids
    assert all(worker.is_alive() and worker.exitcode is None for worker in iterator._workers)
    iterator._shutdown_workers()
    iterator._shutdown_workers()
    assert gone(pids)
    assert not any(worker.is_alive() for worker in iterator._workers)
    for worker in iterator._workers:
        worker.terminate()
        worker.join(5)
    assert len(_sums(loader)) == 8
    loader.close()


@pytest.mark.parametrize("deed", ["terminate", "kill"])
def test_a_worker_that_a_program_ends_comes_back(deed: str, tmp_path: Path) -> None:
    expected = _expected(tmp_path)
    torch.manual_seed(0)
    loader = DataLoader(Killing(tmp_path, None), 4, shuffle=True, num_workers=2)
    iterator: Any = iter(loader)
    first = [next(iterator)]
    worker = iterator._workers[0]  # it has loaded the first batch
    pid = worker.pid
    getattr(worker, deed)()
    worker.join()
    until(lambda: gone([pid]), 20)
    assert _sums(first + list(iterator)) == expected
    assert loader.report().causes == {"died": 1}


def test_a_pool_s_processes_and_the_trainer_are_no_loader_s_to_end(tmp_path: Path) -> None:
    with WorkerPool(1, start_method="forkserver") as pool:
        loader = DataLoader(Killing(tmp_path, None), 4, num_workers=1, policy=Policy(pool=pool))
        iterator: Any = iter(loader)
        next(iterator)
        iterator._workers[0].terminate()
        assert len(list(iterator)) == 7
        assert loader.report().causes == {}
    loader = DataLoader(Killing(tmp_path, None), 4, num_workers=1, policy=Policy(max_processes=0))
    iterator = iter(loader)
    next(iterator)
    assert iterator._workers[0].pid is None
    iterator._workers[0].kill()
    assert len(list(iterator)) == 7


def test_nothing_is_ignored_where_an_iterator_dies_as_it_likes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Streaming(DataLoader[Any]):  # mosaicml-streaming's
        def __del__(self) -> None:
            if self._iterator is not None:
                self._iterator._shutdown_workers()  # type: ignore[attr-defined]

    loader = Streaming(Killing(tmp_path, None), 4, num_workers=2, persistent_workers=True)
    next(iter(loader))
    pids = [process.pid for process in processes_of(loader)]
    del loader
    gc.collect()
    assert gone(pids)
    broken: Any = _MultiProcessingDataLoaderIter.__new__(type(iter(DataLoader(range(2), num_workers=1))))  # type: ignore[arg-type]
    del broken
    gc.collect()
    assert "ignored" not in capfd.readouterr().err
