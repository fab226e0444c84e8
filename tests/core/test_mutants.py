"""Mutants test the test: each fault that is put into the core must be noticed by the walks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.core.mutants import MUTANTS, Mutant
from tests.core.walker import walk

SEEDS = 1000  # most are noticed within 100


@pytest.fixture
def mutated(request: pytest.FixtureRequest) -> Iterator[Any]:
    mutant: Mutant = request.param
    yield mutant.supervisor()
    mutant.forget()


def notices(seed: int, supervisor: Any) -> bool:
    """True if this walk fails. A fault may also show as an exception in the core itself, or in the world."""
    try:
        walk(seed, supervisor)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("mutated", MUTANTS, ids=lambda mutant: mutant.name, indirect=True)
def test_the_walks_notice(mutated: Any) -> None:
    assert any(notices(seed, mutated) for seed in range(SEEDS))


def test_an_unchanged_copy_of_the_core_passes_the_same_walks() -> None:
    unchanged = Mutant("unchanged", "hunt", "class Hunt:", "class Hunt:")
    supervisor = unchanged.supervisor()
    assert not [seed for seed in range(200) if notices(seed, supervisor)]
    unchanged.forget()


def test_no_two_mutants_are_the_same() -> None:
    assert len(MUTANTS) >= 16
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.module, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
