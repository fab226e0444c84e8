"""The board's traffic, on torch's own store in a process of its own: a visit, the load of all ranks, a reading.

The ranks are played by this process. A visit is the one that a rank makes (`safeloader.distributed.board.member`),
with its connection; only who makes it is pretended.
"""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from time import monotonic, process_time, sleep
from typing import TYPE_CHECKING, Any

import torch.distributed

from benchmarks.scaling.wire import CountingPort
from safeloader.distributed.board.judge import Sighting, interval, judge
from safeloader.distributed.board.member import key_of, visit
from safeloader.distributed.board.rank_status import RankStatus, encode
from safeloader.distributed.store import GroupStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

__all__ = ["Load", "measure"]

_VISITS = 50
_LEAST = 5.0
dist: Any = torch.distributed


@dataclass(frozen=True)
class Load:
    """The board of so many ranks.

    Attributes:
        world: ranks.
        every: seconds between two rows of one.
        rows: a second, of all.
        visit_bytes: of a visit that publishes, both ways.
        bytes_a_second: of all visits.
        store_share: of one core, that the store's process needs for them.
        reading_bytes: of reading all rows once, both ways.
        reading_seconds: for that, decoding included.
        missing_seconds: the same where every hundredth rank has published nothing.
        judging_seconds: to say who holds the run.
    """

    world: int
    every: float
    rows: float
    visit_bytes: float
    bytes_a_second: float
    store_share: float
    reading_bytes: int
    reading_seconds: float
    missing_seconds: float
    judging_seconds: float


def _serve(pipe: Connection) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    while pipe.recv():  # how much processor time it has used, as often as it is asked
        pipe.send(process_time())


class _Store:
    """A store in a process of its own, and the way to it."""

    def __init__(self, pipe: Connection, port: int) -> None:
        self._pipe = pipe
        self.counting = CountingPort(port)
        self._client = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
        self.direct = GroupStore(self._client)
        self.counted = GroupStore(self._client)
        self.counted.address = ("127.0.0.1", self.counting.port)

    def seconds(self) -> float:
        """Processor time of the store's process."""
        self._pipe.send(True)
        return float(self._pipe.recv())

    def fill(self, rows: list[RankStatus]) -> None:
        """Have all these ranks published."""
        filled = self.direct.open()
        for row in rows:
            filled.set(key_of(row.rank), encode(row).decode())


@contextmanager
def _store() -> Iterator[_Store]:
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,))
    process.start()
    store = _Store(here, here.recv())
    try:
        yield store
    finally:
        store.counting.close()
        here.send(False)
        process.join()


def _row(rank: int, every: float) -> RankStatus:
    """As they are in a stall, which makes them longest: all wait in the step for one that waits for data."""
    host = f"node-{rank // 8:04}.cluster"
    standing = RankStatus(
        rank, 1000 + rank, every, "steps", 301.4, host, 10_000 + rank, "train", 12, 48_860, 125_000, 8,
        "train.py:188 in training_step", True, workers=8, processes=8,
    )  # fmt: skip
    if rank != 3:
        return standing
    return replace(standing, state="waits", place="", joined=False, worker=1, sample=51_203, working=300.9)


def measure(world: int) -> Load:
    """Play so many ranks."""
    every = interval(world, _LEAST)
    rows = [_row(rank, every) for rank in range(world)]
    some = [rows[(number * 7919) % world] for number in range(_VISITS)]
    with _store() as store:
        reading_missing = _seconds_to_read(store, [row for row in rows if row.rank % 100 != 50], world)
        store.fill(rows)
        before = store.counting.traffic
        for row in some:
            visit(store.counted.open(), row.rank, encode(row), None)
        gone = _settled(store, before)
        used = store.seconds()
        for row in some:
            visit(store.direct.open(), row.rank, encode(row), None)
        used = store.seconds() - used
        before = store.counting.traffic
        found = visit(store.counted.open(), 0, encode(rows[0]), world)
        read = _settled(store, before)
        if found is None or len(found) != world:
            raise RuntimeError(f"{0 if found is None else len(found)} of {world} rows were read")
        reading = median(_seconds_to_read(store, [], world) for _ in range(3))
    seen = {rank: Sighting(row) for rank, row in found.items()}
    begun = monotonic()
    verdict = judge(seen, world, 150.0)
    judging = monotonic() - begun
    if world > 3 and verdict.holders != (3,):
        raise RuntimeError(f"the wrong rank is named: {verdict.said}")
    each = sum(gone) / _VISITS
    return Load(
        world, every, world / every, each, each * world / every, used / _VISITS * world / every, sum(read), reading,
        reading_missing, judging,
    )  # fmt: skip


def _settled(store: _Store, before: Any) -> Any:
    """The traffic since, once it has all been counted: the counter's threads lag behind."""
    last = None
    while (now := store.counting.traffic) != last:
        last = now
        sleep(0.1)
    gone = now.since(before)
    return gone.to_store, gone.from_store


def _seconds_to_read(store: _Store, rows: list[RankStatus], world: int) -> float:
    store.fill(rows)
    begun = monotonic()
    visit(store.direct.open(), 0, encode(_row(0, 5.0)), world)
    return monotonic() - begun
