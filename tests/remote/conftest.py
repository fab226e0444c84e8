"""One loader whose processes an agent has, for many rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from safeloader import Policy
from tests.fixtures_data import Orders
from tests.remote.links import AgentProgram, Link, hosts
from tests.runtime.conftest import Rig
from tests.runtime.harness import processes_of
from tests.until import until

__all__ = ["FarRig"]


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Orders for one test."""
    folder = tmp_path / "orders"
    folder.mkdir()
    return Orders(folder)


@pytest.fixture(scope="session")
def agent() -> Iterator[AgentProgram]:
    """An agent that many tests share."""
    with AgentProgram() as running:
        yield running


class FarRig(Rig):
    """A rig whose processes are an agent's, behind a link."""

    timeout = 3.0

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(folder, kind, "spawn")
        self.agent = AgentProgram()
        self.link = Link(self.agent.address)

    def policy(self) -> Policy:
        return Policy(batch_timeout=self.timeout, max_restarts=10_000, recover_after=2, hosts=hosts(self.link.address))

    def get_ready(self) -> None:
        """All its processes are there: one that took over in the row before may still be on its way."""
        super().get_ready()
        until(lambda: len(self.agent.processes()) == len(processes_of(self.loader)))

    def end_loader(self) -> None:
        """The next row starts another."""
        super().close()

    def close(self) -> None:
        super().close()
        self.link.close()
        self.agent.close()


@pytest.fixture(scope="session")
def _far_rigs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FarRig]]:
    folder = tmp_path_factory.mktemp("rigs")
    rigs = {kind: FarRig(folder / kind, kind) for kind in ("draws", "stream")}
    yield rigs
    for rig in rigs.values():
        rig.close()


@pytest.fixture
def rig(_far_rigs: dict[str, FarRig]) -> FarRig:
    """The shared loader of a map-style dataset, between two epochs."""
    _far_rigs["draws"].get_ready()
    return _far_rigs["draws"]


@pytest.fixture
def stream_rig(_far_rigs: dict[str, FarRig]) -> FarRig:
    """The shared loader of an iterable dataset, between two epochs."""
    _far_rigs["stream"].get_ready()
    return _far_rigs["stream"]
