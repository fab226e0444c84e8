"""Mutants test the test: each fault that is put into the core must be noticed by the walks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.core.mutated import MUTANTS, Mutant
from tests.core.walker import walk

SEEDS = 1000  # most are noticed within 100


@pytest.fixture
def mutated(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param.applied() as supervisor:
        yield supervisor


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


def test_mutants_that_override_nothing_pass_the_same_walks() -> None:
    with contextlib.ExitStack() as stack:
        for old in {mutant.old for mutant in MUTANTS if isinstance(mutant.old, type)}:
            supervisor = stack.enter_context(Mutant("", old, type(old.__name__, (old,), {})).applied())
        assert not [seed for seed in range(200) if notices(seed, supervisor)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_overrides_is_there(mutant: Mutant) -> None:
    assert not [name for name in mutant.overridden() if not hasattr(mutant.old, name)]


def test_no_two_mutants_are_the_same() -> None:
    assert len(MUTANTS) >= 91
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
