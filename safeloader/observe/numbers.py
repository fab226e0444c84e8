"""The one table of numbers that are told to other systems: Prometheus, OpenTelemetry, TensorBoard, docs/metrics.md.

::

    stall.status() ──▶ numbers() ──▶ metrics:     a scrape
                                ├──▶ telemetry:   a reading by OpenTelemetry
                                └──▶ tensorboard: a call of write()

They are made when somebody reads them. Loaders of one name are added up: of shares and quantiles the worst is told.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.observe import stall
from safeloader.observe.timings import STAGES
from safeloader.process_memory import own_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["TABLE", "Number", "Metric", "numbers"]

_Facts = dict[str, Any]
_Value = tuple[dict[str, str], float]


class Metric(NamedTuple):
    """One kind of number.

    Attributes:
        name: its name, with its unit, without ``safeloader`` before it.
        counter: it only grows; else it goes up and down.
        unit: as OpenTelemetry writes it.
        words: what it is.
        values: one loader's values, with labels besides the loader's.
        labels: the names of those labels.
        worst: loaders of one name are not added up; of two the greater is told, or the lesser where that is worse.
    """

    name: str
    counter: bool
    unit: str
    words: str
    values: Callable[[_Facts], Iterator[_Value]]
    labels: tuple[str, ...] = ()
    worst: Callable[[float, float], float] | None = None


class Number(NamedTuple):
    """A value now."""

    row: Metric
    labels: dict[str, str]
    value: float


def _plain(key: str) -> Callable[[_Facts], Iterator[_Value]]:
    def values(facts: _Facts) -> Iterator[_Value]:
        yield {}, facts[key]

    return values


def _ready(facts: _Facts) -> Iterator[_Value]:
    yield {}, round(facts["ready"] * facts["batches"])


def _share(facts: _Facts) -> Iterator[_Value]:
    if facts["batches"]:
        yield {}, facts["ready"]


def _causes(facts: _Facts) -> Iterator[_Value]:
    for cause, count in facts["causes"].items():
        yield {"cause": cause}, count


def _waits(facts: _Facts) -> Iterator[_Value]:
    for quantile, seconds in facts["wait_quantiles"].items():
        yield {"quantile": quantile}, seconds


def _stages(facts: _Facts) -> Iterator[_Value]:
    for times in facts["timings"]:
        for stage in STAGES:
            for quantile, seconds in times[stage].items():
                labels = {"worker": str(times["worker"]), "stage": stage, "quantile": f"0.{quantile[1:].rstrip('0')}"}
                yield labels, seconds


def _memory(facts: _Facts) -> Iterator[_Value]:
    known = [own_memory(pid) for pid in {post["process"] for post in facts["crew"]} - {None, os.getpid()}]
    yield {}, sum(size or 0 for size in known)


TABLE: tuple[Metric, ...] = (
    Metric("batches", True, "{batch}", "Batches given to the consumer.", _plain("batches")),
    Metric("wait_seconds", True, "s", "What the consumer has waited: exposed data-loading time.", _plain("waited")),
    Metric("ready_batches", True, "{batch}", "Batches that were there when they were asked for.", _ready),
    Metric("ready_ratio", False, "1", "Their share of all batches: readiness.", _share, worst=min),
    Metric("wait_quantile_seconds", False, "s",
        "What that share of the batches was waited for at most, within a fifth.", _waits, ("quantile",), max),
    Metric("stage_quantile_seconds", False, "s",
        "What a stage took at most for that share of a worker's batches: load, collate, transfer, wait; "
        "to within a fifth.",
        _stages, ("worker", "stage", "quantile"), max),
    Metric("faults", True, "{fault}", "Faults, by cause.", _causes, ("cause",)),
    Metric("restarts", True, "{process}", "Processes that took the place of one lost to a fault.", _plain("restarts")),
    Metric("fallbacks", True, "{change}", "Times that policy lowered the number of processes.", _plain("fallbacks")),
    Metric("recoveries", True, "{change}", "Times that it raised the number again.", _plain("recoveries")),
    Metric("skipped_samples", True, "{sample}", "Bad samples left out of their batches.", _plain("skipped")),
    Metric("slow_batches", True, "{batch}", "Batches over their deadline whose samples still finished.",
        _plain("slow_batches")),
    Metric("lost_seconds", True, "s", "What faults have cost.", _plain("seconds_lost")),
    Metric("workers", False, "{worker}", "Workers.", _plain("workers")),
    Metric("processes", False, "{process}", "Processes wanted now; 0: the main process alone.", _plain("processes")),
    Metric("epoch", False, "1", "The epoch under way or ended last, from 0.", _plain("epoch"), worst=max),
    Metric("memory_bytes", False, "By", "What the worker processes have to themselves (USS; Linux).", _memory),
    Metric("shared_memory_bytes", False, "By", "Shared memory that batches take.", _plain("shared_memory")),
)  # fmt: skip


def numbers() -> list[Number]:
    """All numbers of this program's loaders, from their first epoch on, in the order of the table."""
    loaders, rank = stall.status()["loaders"], os.environ.get("RANK", "")
    told = []
    for row in TABLE:
        found: dict[tuple[tuple[str, str], ...], float] = {}
        for facts in loaders:
            own = {"loader": str(facts["name"])} | ({"rank": rank} if rank.isdecimal() else {})
            for labels, value in row.values(facts):
                key = tuple((own | labels).items())
                before = found.get(key)
                found[key] = value if before is None else (row.worst or _add)(before, value)
        told += [Number(row, dict(key), value) for key, value in found.items()]
    return told


def _add(one: float, other: float) -> float:
    return one + other
