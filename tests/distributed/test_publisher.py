"""When a rank publishes, reads and tells: pure, with a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeloader.distributed.board.judge import MOST_A_SECOND, interval, silent_after, turn
from safeloader.distributed.board.publisher import Publisher
from safeloader.distributed.board.rank_status import RankStatus

CALMLY = settings(deadline=None, derandomize=True, database=None, max_examples=100)
LIMIT = 300.0


class Store:
    """All ranks' rows, as a program of rank 0 would read them; time passes only by `until`."""

    def __init__(self, world: int = 4, rank: int = 0, least: float = 5.0) -> None:
        self.now = 1000.0
        self.world = world
        self.publisher = Publisher(rank, world, least, LIMIT, self.now)
        self.stopped: set[int] = set()
        self.fails = False
        self.published = self.read = 0
        self.told: list[tuple[float, str]] = []
        self.since = dict.fromkeys(range(world), 0.0)

    def rows(self) -> dict[int, RankStatus]:
        every = self.publisher.every
        return {
            rank: RankStatus(
                rank,
                1 if rank in self.stopped else int(self.now / every),
                every,
                "steps",
                self.now - since,
                place="x.py:1",
            )
            for rank, since in self.since.items()
        }

    def until(self, end: float, last: float | None) -> None:
        """Do all that is due by then."""
        for _ in range(10_000):
            self.now = max(self.now, self.publisher.due(last))
            if self.now > end:
                break
            job = self.publisher.job(self.now, last)
            assert job is not None, "what is due is given"
            self.published += 1
            self.read += job.reads
            if self.fails:
                self.told += [(self.now, "fails")] if self.publisher.failed(self.now) else []
            else:
                self.publisher.done(self.now, self.rows() if job.reads else None)
            verdict = self.publisher.to_tell(self.now, last)
            if verdict is not None:
                self.told.append((self.now, verdict.said))
        else:
            pytest.fail("it never rests")
        self.now = end


def test_a_rank_publishes_at_its_interval_and_reads_nothing_while_it_moves() -> None:
    store = Store()
    for minute in range(10):
        store.until(1060.0 + 60 * minute, last=1060.0 + 60 * minute - 1)
    assert store.published == pytest.approx(120, abs=2)
    assert (store.read, store.told) == (0, [])


def test_rank_0_reads_in_a_stall_and_tells_once() -> None:
    store = Store()
    store.stopped = {2}
    store.until(1000.0 + LIMIT - 1, last=1000.0)
    assert store.read > 0
    assert store.told == []
    store.until(1000.0 + 10 * LIMIT, last=1000.0)
    ((when, said),) = store.told
    assert when == pytest.approx(1000.0 + LIMIT, abs=6)
    assert said.startswith("rank 2 has published nothing for 150 s: ")
    store.until(1000.0 + 20 * LIMIT, last=1000.0 + 11 * LIMIT)
    assert len(store.told) == 2, "another stall is told anew"


def test_other_ranks_tell_nothing_and_read_only_when_asked() -> None:
    store = Store(rank=1)
    store.until(1000.0 + 2 * LIMIT, last=1000.0)
    assert (store.read, store.told) == (0, [])
    store.publisher.ask()
    store.until(store.now + 1, last=1000.0)
    assert store.read == 1
    assert sorted(store.publisher.seen(store.now)) == [0, 1, 2, 3]


def test_a_row_from_before_the_stall_is_waited_out() -> None:
    """Rank 1 seems to move: it said so before it stood still. Rank 0 waits for what it says next."""
    store = Store()
    store.since = {0: 1000.0, 1: 1000.0 + LIMIT - 20, 2: 1000.0, 3: 1000.0}
    store.until(1000.0 + LIMIT + 20, last=1000.0)
    assert store.told == []
    store.until(1000.0 + 2 * LIMIT, last=1000.0)
    assert len(store.told) == 1


def test_a_store_that_fails_is_told_once_and_asked_less_often() -> None:
    store = Store()
    store.fails = True
    store.until(1000.0 + 600, last=None)
    assert [said for _, said in store.told] == ["fails"]
    assert store.published < 600 / 20
    store.fails = False
    store.until(store.now + 31, last=None)
    assert store.publisher.failing == 0


def test_a_stall_shorter_than_patience_lasts_until_silence_can_be_told() -> None:
    store = Store(least=5.0)
    store.publisher.limit = 4.0
    store.stopped = {3}
    store.until(1100.0, last=1000.0)
    ((when, said),) = store.told
    assert when >= 1002.0 + silent_after(5.0)
    assert said.startswith("rank 3 has published nothing")


@given(world=st.integers(1, 100_000), least=st.floats(0.01, 60))
@CALMLY
def test_however_many_ranks_the_store_gets_no_more_rows_a_second(world: int, least: float) -> None:
    every = interval(world, least)
    assert every >= least
    assert world / every <= max(MOST_A_SECOND, world / least)
    assert world <= MOST_A_SECOND * least or world / every == pytest.approx(MOST_A_SECOND)


def test_ranks_take_turns() -> None:
    every = interval(10_000, 5.0)
    turns = [turn(rank, every) for rank in range(10_000)]
    busiest = max(sum(second <= t < second + 1 for t in turns) for second in range(int(every)))
    assert busiest <= MOST_A_SECOND * 1.05
    assert turns[0] == 0.0
