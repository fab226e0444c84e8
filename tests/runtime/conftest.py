"""Loaders and orders for the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from safeloader import DataLoader, Policy, WorkerPool
from safeloader.observe.report import Fault
from tests.fixtures_data import Collate, Orders, Stream, UnpickleTrap
from tests.runtime.harness import COUNT, is_settled, make, persistent_epochs, play, seed
from tests.until import until


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Orders for one test."""
    folder = tmp_path / "orders"
    folder.mkdir()
    return Orders(folder)


class Rig:
    """One loader with persistent workers that many rows share: a row is one more epoch, and starts no process that
    its fault does not cost. Policy lets it bear any number of faults; it is thrown away if a row fails.

    Args:
        folder: for its orders.
        kind: which reference it has to equal: "draws" or "stream".
        start_method: how its processes come to be.
    """

    timeout = 2.0  # seconds: its batch_timeout

    def __init__(self, folder: Path, kind: str, start_method: Literal["spawn", "forkserver"]) -> None:
        self._folder = folder
        self.kind = kind
        self._start_method = start_method
        self._loader: DataLoader[Any] | None = None
        self.epoch = 0
        self.orders = Orders()

    @property
    def loader(self) -> DataLoader[Any]:
        assert self._loader is not None
        return self._loader

    def get_ready(self) -> None:
        """Start it, unless it runs: then nothing of an earlier row goes on in it."""
        if self._loader is not None:
            until(self.is_settled)
            return
        self._folder.mkdir(exist_ok=True)
        self.orders = Orders(self._folder)
        self.orders.withdraw()
        dataset: Any = UnpickleTrap(COUNT, self.orders) if self.kind == "draws" else Stream(COUNT, self.orders)
        self._loader = make(
            dataset,
            persistent_workers=True,
            collate_fn=Collate(self.orders),
            policy=self.policy(),
        )
        self.epoch = 0
        self.check_epoch()

    def policy(self) -> Policy:
        """Of its loader."""
        return Policy(batch_timeout=self.timeout, max_restarts=10_000, start_method=self._start_method)

    def check_epoch(self, at: Mapping[int, Callable[[], object]] | None = None) -> list[Fault]:
        """One more epoch equals torch's. Returns the faults that it had.

        Args:
            at: what to do after so many batches.
        """
        known = len(self.loader.report().faults)
        seed(self.epoch)
        played = play(self._with_deeds(at or {}))
        expected = persistent_epochs(self.kind)[self.epoch]
        self.epoch += 1
        assert played == expected
        return self.loader.report().faults[known:]

    def _with_deeds(self, at: Mapping[int, Callable[[], object]]) -> Iterator[Any]:
        for number, batch in enumerate(self.loader, 1):
            yield batch
            at.get(number, int)()

    def is_settled(self) -> bool:
        """Whether nothing goes on in it, and it has heard all there is to hear of its processes."""
        return self._loader is None or is_settled(self._loader)

    def close(self) -> None:
        """End it; the next row starts another."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None


@pytest.fixture(scope="session")
def _rigs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, Any], Rig]]:
    folder = tmp_path_factory.mktemp("rigs")
    which: list[tuple[str, Any]] = [("draws", "spawn"), ("draws", "forkserver"), ("stream", "forkserver")]
    rigs = {(kind, method): Rig(folder / f"{kind} {method}", kind, method) for kind, method in which}
    yield rigs
    for rig in rigs.values():
        rig.close()


@pytest.fixture
def rig(_rigs: dict[tuple[str, Any], Rig], request: pytest.FixtureRequest) -> Rig:
    """The shared loader of a map-style dataset, between two epochs; tests that are ``forked`` share another."""
    method = "spawn"
    if "forked" in request.fixturenames:
        method = "forkserver"
        request.getfixturevalue("forked")  # its server is there before the rig
    found = _rigs["draws", method]
    found.get_ready()
    return found


@pytest.fixture
def stream_rig(forked: None, _rigs: dict[tuple[str, Any], Rig]) -> Rig:
    """The shared loader of an iterable dataset, between two epochs."""
    _rigs["stream", "forkserver"].get_ready()
    return _rigs["stream", "forkserver"]


@pytest.fixture(scope="session")
def _pool() -> Iterator[WorkerPool]:
    with WorkerPool(processes=2, name="shared", start_method="forkserver") as pool:
        yield pool


@pytest.fixture
def pool(_pool: WorkerPool, forked: None) -> WorkerPool:
    """The pool that many rows share: two processes that are there, ready or about to be."""
    started = _pool.start()
    until(lambda: all(started.shared_pool().pids))
    return started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A row that failed may leave the shared loader in the middle of an epoch."""
    report = yield
    if report.failed:
        for name in ("rig", "stream_rig"):
            broken = getattr(item, "funcargs", {}).get(name)
            if broken is not None:
                broken.close()
    return report
