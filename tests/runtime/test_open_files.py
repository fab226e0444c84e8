"""A file that the dataset holds open, in every way of running: each worker begins where the trainer's stood."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader import DataLoader, NotCarriableError, Policy, WorkerPool
from tests.until import until

pytestmark = pytest.mark.usefixtures("forked")

COUNT = 12


class Held:
    """Sample n tells the process, where the file stood when this copy first read it, and how far it is now."""

    def __init__(self, path: Path, kill_at: int = -1) -> None:
        self.file = path.open("rb")
        self.file.seek(10)
        self.first: int | None = None
        self.kill_at = kill_at
        self.killed = path.parent / "killed"

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, n: int) -> Any:
        if n == self.kill_at and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.first is None:
            self.first = self.file.tell()
        read = self.file.read(1)[0]
        return torch.tensor([os.getpid(), self.first, read, self.file.tell()])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(200)))
    return path


@pytest.fixture
def held(path: Path) -> Iterator[Held]:
    held = Held(path)
    yield held
    held.file.close()


def open_in(pid: int, path: Path) -> int:
    """How many descriptors of a file a process has."""
    folder = f"/proc/{pid}/fd"
    found = 0
    for name in os.listdir(folder):
        try:
            found += os.readlink(f"{folder}/{name}") == os.fspath(path)
        except OSError:
            continue
    return found


WAYS = {
    "spawn": {"multiprocessing_context": "spawn"},
    "forkserver": {"multiprocessing_context": "forkserver"},
    "standby": {"policy": Policy(standby=1, start_method="forkserver")},
    "two workers in a process": {"policy": Policy(max_processes=1)},
    "the main process": {"policy": Policy(max_processes=0)},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_worker_has_an_offset_of_its_own_that_begins_where_the_trainers_stood(way: str, held: Held) -> None:
    options: dict[str, Any] = WAYS[way]
    with DataLoader(held, batch_size=None, num_workers=2, persistent_workers=True, **options) as loader:
        for epoch in range(2):
            for n, (pid, first, read, stands) in enumerate(loader):
                turn = epoch * COUNT // 2 + n // 2
                assert (first, read, stands) == (10, 10 + turn, 11 + turn)
                assert (pid == os.getpid()) == (way == "the main process")
        assert loader.report().reopened == [f"dataset.file ({held.file.name}, at byte 10)"]
        assert "each worker opened for itself: dataset.file (" in str(loader.report())
    assert held.file.tell() == 10


def test_in_the_main_process_alone_the_file_is_the_datasets_own(held: Held) -> None:
    assert [int(read) for _, _, read, _ in DataLoader(held, batch_size=None)] == list(range(10, 10 + COUNT))
    assert held.file.tell() == 10 + COUNT


@pytest.mark.parametrize("way", ["spawn", "forkserver", "standby"])
def test_a_replacement_begins_there_too_though_the_file_was_removed_or_exchanged(way: str, path: Path) -> None:
    dataset = Held(path, kill_at=5)
    options: dict[str, Any] = WAYS[way]
    with dataset.file, DataLoader(dataset, batch_size=None, num_workers=1, **options) as loader:
        given = []
        for sample in loader:
            given.append(sample.tolist())
            if len(given) == 1:
                path.unlink()
                path.write_bytes(b"x" * 200)
        assert len({pid for pid, *_ in given}) == 2
        assert [first for _, first, _, _ in given] == [10] * COUNT
        assert {read for _, _, read, _ in given} < set(range(10, 30)), "the file that was open, not the new one"
        assert loader.report().causes == {"died": 1}
        assert dataset.file.tell() == 10


def test_what_was_opened_is_closed_with_the_worker_while_its_process_lives_on(held: Held, path: Path) -> None:
    with WorkerPool(1) as pool:
        with DataLoader(held, batch_size=None, num_workers=1, policy=Policy(pool=pool)) as loader:
            iterator = iter(loader)
            pid = int(next(iterator)[0])
            assert open_in(pid, path) == 2, "the worker's, and the descriptor that it was opened through"
        until(lambda: open_in(pid, path) == 0)
    assert open_in(os.getpid(), path) == 1


def test_what_was_opened_in_the_main_process_is_closed_with_the_loader(held: Held, path: Path) -> None:
    with DataLoader(held, batch_size=None, num_workers=1, policy=Policy(max_processes=0)) as loader:
        iterator = iter(loader)
        next(iterator)
        assert open_in(os.getpid(), path) == 3, "the dataset's, the worker's, and the descriptor for processes"
    assert open_in(os.getpid(), path) == 1


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("mode", "kind"), [("r+b", "BufferedRandom"), ("wb", "BufferedWriter"), ("a", "TextIOWrapper")]
)
def test_a_file_that_is_open_for_writing_is_an_error_that_says_why_and_where(mode: str, kind: str, held: Held) -> None:
    with open(f"{held.file.name}.other", "wb") as other:
        other.write(b"kept")
    with open(f"{held.file.name}.other", mode) as writing:
        held.writing = [{"log": writing}]  # type: ignore[attr-defined]
        with pytest.raises(NotCarriableError, match="is open for writing, and each process would overwrite") as caught:
            iter(DataLoader(held, num_workers=1))
    assert caught.value.path == "dataset.writing[0]['log']"
    assert kind in caught.value.what
    assert "get_worker_info().id" in caught.value.hint


class Database:
    """Holds something that is opened by its path alone, as libraries do."""

    def __init__(self, path: Path) -> None:
        self.parts = {"index": sqlite3.connect(path, timeout=0.1)}
        self.parts["index"].execute("CREATE TABLE samples (value)")
        self.parts["index"].commit()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, n: int) -> Any:
        return os.getpid(), self.parts["index"].execute("SELECT count(*) FROM samples").fetchone()[0]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "a.db")
    yield database
    database.parts["index"].close()


def spoil(path: Path, how: str) -> Any:
    """Let a database be something that cannot be opened again."""
    if how == "locked":
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        return other
    path.rename(path.with_suffix(".old"))
    if how == "exchanged":
        path.write_bytes(b"")
    return None


SPOILT = {
    "removed": "a.db is gone",
    "exchanged": "a.db is another file now",
    "locked": "OperationalError: database is locked",
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_cannot_be_opened_again_in_a_replacement_is_one_clear_error(
    how: str, database: Database, tmp_path: Path
) -> None:
    with DataLoader(database, batch_size=None, num_workers=1, prefetch_factor=1, name="train") as loader:
        iterator = iter(loader)
        given = [next(iterator)]
        other = spoil(tmp_path / "a.db", how)
        os.kill(given[0][0], signal.SIGKILL)
        with pytest.raises(NotCarriableError, match=SPOILT[how]) as caught:
            given.extend(iterator)
        assert (caught.value.path, caught.value.where) == ("dataset.parts['index']", "train")
        assert loader.report().batches == len(given)
        state = loader.state_dict()
        if other is not None:
            other.close()
        else:
            (tmp_path / "a.old").rename(tmp_path / "a.db")
    with DataLoader(database, batch_size=None, num_workers=1) as again:
        again.load_state_dict(state)
        assert len(given) + len(list(again)) == COUNT, "nothing is lost"


@pytest.mark.parametrize("how", SPOILT)
def test_what_cannot_be_opened_again_in_the_main_process_is_the_same_error(
    how: str, database: Database, tmp_path: Path
) -> None:
    with DataLoader(database, num_workers=1, policy=Policy(max_processes=0)) as loader:
        iterator = iter(loader)
        other = spoil(tmp_path / "a.db", how)
        with pytest.raises(NotCarriableError, match=SPOILT[how]) as caught:
            next(iterator)
        assert caught.value.path == "dataset.parts['index']"
        if other is not None:
            other.close()
