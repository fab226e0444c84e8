"""What Prometheus gets when it scrapes."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from safeloader import DataLoader, SafeLoaderError
from tests.fixtures_data import Draws


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from safeloader import metrics

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SafeLoaderError, match=r"pip install prometheus-client"):
        metrics.serve(0)


@pytest.fixture
def server() -> Iterator[Any]:
    pytest.importorskip("prometheus_client")
    from safeloader import metrics

    made = metrics.serve(0)
    yield made
    made.close()


def _scraped(server: Any) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_the_numbers_of_a_loader_are_scraped(server: Any) -> None:
    loader = DataLoader(Draws(20), 4, name="scraped")
    twin = DataLoader(Draws(8), 4, name="scraped")
    for one in (loader, loader, twin):
        list(one)
    found = _scraped(server)
    assert found['safeloader_batches_total{loader="scraped"}'] == 12
    assert found['safeloader_epoch{loader="scraped"}'] == 1
    assert found['safeloader_workers{loader="scraped"}'] == 0
    waited = loader.report().waits.seconds + twin.report().waits.seconds
    assert found['safeloader_wait_seconds_total{loader="scraped"}'] == pytest.approx(waited)
    assert found['safeloader_wait_quantile_seconds{loader="scraped",quantile="0.5"}'] > 0


def test_faults_are_counted_by_cause_and_ranks_are_told_apart(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from safeloader import Fault

    monkeypatch.setenv("RANK", "2")
    loader = DataLoader(Draws(4), 4, name="faulty")
    list(loader)
    loader._safe.recorder.fault(Fault(0.0, "", "died", detail="SIGKILL"))
    assert _scraped(server)['safeloader_faults_total{cause="died",loader="faulty",rank="2"}'] == 1


def test_a_port_in_use_is_an_error_that_helps(server: Any) -> None:
    from safeloader import metrics

    with pytest.raises(SafeLoaderError, match=r"in use[\s\S]*9464 \+ rank"):
        metrics.serve(server.port)


def test_what_is_no_port_is_an_error() -> None:
    from safeloader import metrics

    with pytest.raises(SafeLoaderError, match="port=70000 is no port"):
        metrics.serve(70_000)
