"""What ranks compare, and who is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeloader import SettingsError
from safeloader.ffcv.ranks import Ranks, compare

FACTS: dict[str, Any] = {"seed": 3, "samples": 120, "size": 128}


@given(st.integers(2, 9))
def test_the_same_facts_agree(count: int) -> None:
    assert compare([FACTS] * count) == ""


@given(st.integers(3, 9), st.data())
def test_the_one_that_stands_apart_is_named(count: int, data: st.DataObject) -> None:
    apart = data.draw(st.integers(0, count - 1))
    told = [{**FACTS, "size": 160 if rank == apart else 128} for rank in range(count)]
    assert compare(told) == f"size: rank {apart} has 160; the others have 128"


def test_a_missing_fact_is_a_difference() -> None:
    assert "seed" in compare([FACTS, {"samples": 120, "size": 128}, FACTS])


def test_without_a_process_group_there_are_no_ranks() -> None:
    with pytest.raises(SettingsError, match="needs a process group"):
        Ranks("train", 1.0)
