"""What a dataset holds open reaches its workers: each opens it for itself, where the trainer's stood."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from safeloader import DataLoader
from tests.runtime.open_things import HELD
from tests.runtime.open_things import ROWS as OPEN
from tests.runtime.plain_things import PLAIN

ROWS = {**OPEN, **PLAIN}

# What the rows open ends with them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Things:
    """A dataset of everything; sample n is what the n-th thing gives."""

    def __init__(self, folder: Path, rows: dict[str, Any]) -> None:
        self.rows = rows
        self.things = {}
        for name, row in rows.items():
            (folder / name).mkdir()
            self.things[name] = row.make(folder / name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, n: int) -> Any:
        name = list(self.rows)[n]
        return repr(self.rows[name].use(self.things[name]))


def _loaded(folder: Path, rows: dict[str, Any]) -> tuple[Things, dict[str, str], Any]:
    dataset = Things(folder, rows)
    with DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="forkserver") as loader:
        given = dict(zip(rows, loader, strict=True))
        return dataset, given, loader.report()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Things, dict[str, str], Any]:
    return _loaded(tmp_path_factory.mktemp("things"), ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_worker_goes_on_where_the_trainer_stood_and_the_trainer_stays_there(name: str, loaded: Any) -> None:
    dataset, given, report = loaded
    row = ROWS[name]
    assert given[name] == repr(row.expected)
    assert repr(row.use(dataset.things[name])) == repr(row.expected)
    told = [line for line in report.reopened if line.startswith(f"dataset.things[{name!r}]")]
    assert len(told) == bool(row.reopened), report.reopened
    assert all(row.reopened in line for line in told)


class Locks:
    def __init__(self, locks: dict[str, Any]) -> None:
        self.locks = locks
        self.waits = threading.Condition(locks["lock"])

    def __len__(self) -> int:
        return len(self.locks) + 1

    def __getitem__(self, n: int) -> bool:
        if n == len(self.locks):
            return self.waits._lock is self.locks["lock"]  # type: ignore[attr-defined]
        return bool(list(self.locks.values())[n].acquire(False))


def test_what_the_trainer_holds_comes_over_unlocked_and_stays_held_there(tmp_path: Path) -> None:
    locks = {name: make(tmp_path) for name, make in HELD.items()}
    with DataLoader(Locks(locks), batch_size=None, num_workers=1) as loader:
        assert list(loader) == [True] * (len(locks) + 1)
    assert not any(_had_by_another_thread(lock) for lock in locks.values())


def _had_by_another_thread(lock: Any) -> bool:
    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(lock.acquire(False)))
    thread.start()
    thread.join()
    return said[0]
