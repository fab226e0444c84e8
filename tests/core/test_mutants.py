"""Mutants test the test: each fault that is put into the core must be noticed by the walks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.core.mutated import MUTANTS, Mutant
from tests.core.walker import walk

SEEDS = 2000  # most are noticed within 50
NOTICED_AT = {
    "a_copy_of_a_process_that_was_probed_counts": 1332, "a_copy_of_a_worker_that_is_probed_counts": 100,
    "a_dataset_is_believed": 313, "a_dying_standby_counts_as_a_dying_process": 78,
    "a_failback_costs_what_a_dataset_has_changed": 169, "a_fault_that_ends_the_loader_promises_more": 93,
    "a_hunt_looks_in_the_wrong_half": 50, "a_lease_is_freed_at_the_kill": 72,
    "a_probed_copy_goes_on_although_there_is_a_shadow": 100, "a_refusal_is_taken_lightly": 51,
    "a_refused_worker_waits_for_a_process_for_ever": 162, "a_shadow_is_not_used": 253,
    "a_skipped_sample_is_loaded": 50, "a_way_that_is_wrong_is_the_last": 671,
    "a_worker_goes_to_another_than_its_shadows_process": 253, "a_worker_leaves_what_only_its_shadow_keeps": 100,
    "a_worker_that_should_move_stays": 60, "any_refusal_ends_it": 75, "only_the_oldest_message_can_hold_up": 63,
    "rare_faults_are_borne_for_ever": 66, "standbys_are_tried_for_ever": 118,
    "the_ladder_loses_what_datasets_have_changed": 169, "the_log_before_the_first_mark_is_forgotten": 87,
    "what_hurt_waits_for_a_process_for_ever": 162, "what_is_wanted_is_passed_over": 53,
    "what_left_the_queue_is_got_in_the_next_epoch": 81, "what_waited_for_a_false_alarm_is_not_sent": 108,
    "what_was_passed_over_keeps_its_memory": 53, "who_begins_anew_is_not_told_of": 161,
    "who_went_wrong_once_is_taken_as_it_comes": 164, "who_works_for_another_is_never_looked_at_again": 52,
    "work_for_another_is_a_failed_start": 97, "work_for_another_is_a_hang": 104, "workers_with_changes_move": 169,
}  # fmt: skip
"""The first walk that noticed each of the others. It is tried first: an entry that a change made stale costs only time."""


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
def test_the_walks_notice(mutated: Any, request: pytest.FixtureRequest) -> None:
    first = NOTICED_AT.get(request.node.callspec.id, 0)
    assert any(notices(seed, mutated) for seed in (first, *range(SEEDS)))


def test_what_is_tried_first_is_known_of_mutants_that_are_there() -> None:
    assert NOTICED_AT.keys() <= {mutant.name for mutant in MUTANTS}


def test_mutants_that_override_nothing_pass_the_same_walks() -> None:
    with contextlib.ExitStack() as stack:
        for old in {mutant.old for mutant in MUTANTS if isinstance(mutant.old, type)}:
            supervisor = stack.enter_context(Mutant("", old, type(old.__name__, (old,), {})).applied())
        assert not [seed for seed in range(200) if notices(seed, supervisor)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_overrides_is_there(mutant: Mutant) -> None:
    assert not [name for name in mutant.overridden() if not hasattr(mutant.old, name)]


def test_no_two_mutants_are_the_same() -> None:
    assert len(MUTANTS) >= 94
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
