"""What OpenTelemetry and TensorBoard get, by the real packages; and that docs/metrics.md lists all of it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader import DataLoader, SafeLoaderError
from safeloader.observe import numbers as table
from safeloader.observe.spread import Quantiles, Spread
from safeloader.observe.timings import Timings
from tests.fixtures_data import Draws

pytestmark = pytest.mark.usefixtures("forked")

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def trained() -> Iterator[DataLoader[Any]]:
    """A loader with two workers, in the middle of its second epoch."""
    with DataLoader(Draws(24), 4, num_workers=2, persistent_workers=True, name="sunk") as loader:
        list(loader)
        iterator = iter(loader)
        next(iterator)
        yield loader


def test_open_telemetry_reads_every_number(trained: DataLoader[Any]) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from safeloader.telemetry import instrument

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument(provider)
    data = reader.get_metrics_data()
    assert data is not None
    (metrics,) = [scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics]
    found: dict[str, list[Any]] = {
        metric.name: [p for p in metric.data.data_points if p.attributes["loader"] == "sunk"] for metric in metrics
    }
    provider.shutdown()
    assert {f"safeloader.{row.name}" for row in table.TABLE} - set(found) <= {"safeloader.faults"}  # there was none
    assert [point.value for point in found["safeloader.batches"]] == [7]
    assert found["safeloader.memory_bytes"][0].value > 1 << 20
    assert found["safeloader.shared_memory_bytes"][0].value > 0
    loads = [p for p in found["safeloader.stage_quantile_seconds"] if p.attributes["stage"] == "load"]
    assert {(p.attributes["worker"], p.attributes["quantile"]) for p in loads} == {
        (worker, quantile) for worker in "01" for quantile in ("0.5", "0.95", "0.99")
    }
    assert all(p.value > 0 for p in loads)


def test_tensorboard_reads_back_what_was_written(trained: DataLoader[Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from safeloader.tensorboard import TensorBoardSink

    with TensorBoardSink(tmp_path) as sink:
        sink.write(1)
        list(trained)
        sink.write(2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    batches = [(event.step, event.value) for event in events.Scalars("safeloader/sunk/batches")]
    assert batches == [(1, 7.0), (2, 13.0)]
    assert events.Scalars("safeloader/sunk/stage_quantile_seconds/1/collate/0.99")[-1].value > 0


def test_a_writer_that_was_given_is_not_closed(trained: DataLoader[Any]) -> None:
    from safeloader.tensorboard import TensorBoardSink

    class Writer:
        told: dict[str, float]

        def __init__(self) -> None:
            self.told = {}

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.told[tag] = value

        def flush(self) -> None: ...

    writer = Writer()
    with TensorBoardSink(writer) as sink:
        sink.write(0)
    assert writer.told["safeloader/sunk/workers"] == 2


@pytest.mark.parametrize(
    ("missing", "package"), [("opentelemetry.metrics", "opentelemetry-api"), ("torch.utils.tensorboard", "tensorboard")]
)
def test_without_the_package_it_is_named(
    missing: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from safeloader.telemetry import instrument
    from safeloader.tensorboard import TensorBoardSink

    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SafeLoaderError, match=f"pip install {package}"):
        instrument() if package.startswith("opentelemetry") else TensorBoardSink(tmp_path)


def test_the_report_has_the_stages_of_each_worker_and_the_memory(trained: DataLoader[Any]) -> None:
    report = trained.report()
    assert [(times.worker, times.batches) for times in report.timings] == [(0, 4), (1, 3)]
    assert all(times.load.p50 > 0 and times.wait.p99 >= times.wait.p50 for times in report.timings)
    assert report.memory is not None
    assert report.memory > 1 << 20
    assert report.shared_memory > 0
    assert re.search(r"worker 1: load \S+ \ws? / .*, wait ", str(report))


def test_the_trainer_alone_tells_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELOADER_MAX_PROCESSES", "0")
    loader = DataLoader(Draws(8), 4, num_workers=2)
    list(loader)
    times = loader.report().timings
    assert [one.worker for one in times] == [0, 1]
    assert all(one.load.p50 > 0 and one.collate == Quantiles() for one in times)


def test_quantiles_are_right_to_within_a_fifth() -> None:
    spread = Spread()
    for number in range(1, 1001):
        spread.add(number / 1000)
    for found, right in zip(spread.quantiles(), (0.5, 0.95, 0.99), strict=True):
        assert right / 1.2 < found < right * 1.2


def test_batches_that_nobody_got_are_not_kept_for_ever() -> None:
    timings = Timings()
    for task in range(10_000):
        timings.loaded(task, 0, 0.1, 0.1)
    assert len(timings._pending) < 5000
    timings.delivered(9_999, 0.1)
    timings.given(0.1)
    assert timings.workers()[0].batches == 1


def test_every_number_is_on_the_page() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.M))
    assert told == {row.name: "counter" if row.counter else "gauge" for row in table.TABLE}


def test_own_memory_is_that_of_a_living_process_only() -> None:
    from safeloader.process_memory import own_memory

    assert (own_memory(os.getpid()) or 0) > 1 << 20
    assert own_memory(1 << 30) is None
