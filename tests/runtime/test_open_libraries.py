"""What other packages hold open reaches the workers, with the real packages: a test a row."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader import DataLoader, NotCarriableError
from safeloader.runtime import by_value
from tests.runtime.open_libraries import ROWS, _lmdb, _parquet, video
from tests.runtime.open_things import Row
from tests.runtime.test_open_things import Things

# What the rows open ends with them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    rows = {name: row for name, (package, row) in ROWS.items() if _there(package)}
    dataset = Things(tmp_path_factory.mktemp("libraries"), rows)
    with DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn") as loader:
        given = dict(zip(rows, loader, strict=True))
        yield dataset, given, loader.report()


@pytest.mark.parametrize("name", ROWS)
def test_a_worker_opens_it_for_itself_and_the_trainers_own_stays_as_it_was(name: str, loaded: Any) -> None:
    package, row = ROWS[name]
    if not _there(package):
        pytest.skip(f"{package} is not installed")
    dataset, given, report = loaded
    assert given[name] == repr(row.expected)
    assert repr(row.use(dataset.things[name])) == repr(row.expected)
    told = [line for line in report.reopened if line.startswith(f"dataset.things[{name!r}]")]
    assert any(row.reopened in line for line in told) or not row.reopened, report.reopened


# ---------------------------------------------------------------- refused


class Holder:
    def __init__(self, thing: Any) -> None:
        self.parts = [{"thing": thing}]


def refusal_of(thing: Any) -> NotCarriableError:
    with pytest.raises(NotCarriableError) as caught:
        by_value.pack(Holder(thing), what={"dataset": Holder(thing)})
    assert caught.value.path == "dataset.parts[0]['thing']"
    return caught.value


def test_hdf5_for_writing_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        assert "(mode 'r+') is open for writing" in refusal_of(file).what


def test_lmdb_for_writing_and_a_transaction_are_refused(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db")) as environment:
        assert "(readonly=False) is open for writing" in refusal_of(environment).what
    (tmp_path / "other").mkdir()
    with _lmdb(tmp_path / "other") as environment, environment.begin() as transaction:
        assert "hold the environment, and begin() a transaction" in refusal_of(transaction).hint


def test_parquet_with_options_that_change_what_is_read_is_refused_in_the_worker(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from tests.runtime.carrying import through

    with (
        _parquet(tmp_path, read_dictionary=["name"]) as file,
        pytest.raises(NotCarriableError, match="its options \\(read_dictionary") as caught,
    ):
        through(Holder(file))
    assert caught.value.path == "object.parts[0]['thing']"


@pytest.mark.parametrize("package", ["cv2", "decord"])
def test_a_video_that_cannot_be_told_from_another_one_is_refused(package: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    library = pytest.importorskip(package)
    readers = []
    for step in (10, 20):
        (tmp_path / str(step)).mkdir()
        path = video(tmp_path / str(step), count=9, step=step)
        readers.append(library.VideoCapture(path) if package == "cv2" else library.VideoReader(path))
    error = refusal_of(readers[0])
    if package == "cv2":
        readers[0].release()
        readers[1].release()
    assert "it does not tell its path, and 2 of the open files look like it" in error.what
    assert "safeloader.carry.register()" in error.hint


def test_every_row_is_tested_with_the_packages_of_the_tests() -> None:
    assert {package for package, _ in ROWS.values()} == {
        "h5py",
        "lmdb",
        "pyarrow",
        "cv2",
        "av",
        "decord",
        "zarr",
        "PIL",
    }
    assert all(isinstance(row, Row) for _, row in ROWS.values())
