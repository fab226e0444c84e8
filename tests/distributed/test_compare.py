"""What is said of two ranks that differ."""

from __future__ import annotations

from typing import Any

import pytest

from safeloader.distributed import rank_check
from safeloader.distributed.compare import DATA, ended_elsewhere, ends_differ, facts_differ

FACTS: dict[str, Any] = {
    "samples": 10,
    "seed": 0,
    "shuffle": True,
    "ends": False,
    "epoch": 0,
    "at": [0, 0],
    "batches": 3,
}


def test_the_same_is_not_worth_a_word() -> None:
    assert facts_differ("train, epoch 0", 1, FACTS, 0, dict(FACTS)) is None
    assert facts_differ("train, epoch 0", 1, {}, 0, {}) is None
    assert ends_differ("train, epoch 0", 1, 5, 0, 5) is None


@pytest.mark.parametrize("name", DATA)
def test_each_fact_about_the_data_counts_and_is_shown_for_both_ranks(name: str) -> None:
    told = facts_differ("train, epoch 0", 3, {**FACTS, name: "this"}, 1, {**FACTS, name: "that"})
    assert told is not None and told.data
    assert told.what == f"ranks 3 and 1 differ about train, epoch 0: {DATA[name]}: this on rank 3, that on rank 1"


def test_the_number_of_batches_alone_is_not_about_the_data() -> None:
    told = facts_differ("train, epoch 0", 1, {**FACTS, "batches": 4}, 0, FACTS)
    assert told is not None and not told.data
    assert "batches: 4 on rank 1, 3 on rank 0" in told.what
    assert "Join" in told.hint


def test_only_the_rank_that_has_more_than_the_other_had_is_without_a_partner() -> None:
    assert ended_elsewhere("train, epoch 0", 1, 5, 0, 5) is None
    assert ended_elsewhere("train, epoch 0", 1, 4, 0, 5) is None
    told = ended_elsewhere("train, epoch 0", 1, 6, 0, 5)
    assert told is not None and "has ended on rank 0 after 5 batches, and rank 1 has received 6" in told.what


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"[" * 5_000, b"[]", b"{}", b'{"rank": "0", "time": 1, "facts": 2}', b'{"rank": 0, "time": 1}'],
)
def test_what_the_rank_check_did_not_write_is_not_read(value: bytes) -> None:
    assert rank_check._read(value) is None


def test_what_it_wrote_is_read() -> None:
    assert rank_check._read(b'{"rank": 0, "time": 1.5, "facts": 2}') == {"rank": 0, "time": 1.5, "facts": 2}
