"""Mutants test the test: each fault that is put into the core must be noticed by the walks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.core.mutated import MUTANTS, Mutant
from tests.core.walker import walk

SEEDS = 2000
NOTICED_AT = {
    "a_bad_sample_is_tried_for_ever": 21, "a_copy_of_a_process_that_was_probed_counts": 1332,
    "a_copy_of_a_worker_that_is_not_ready_counts": 20, "a_copy_of_a_worker_that_is_probed_counts": 195,
    "a_dataset_is_believed": 313, "a_draw_is_forgotten": 8, "a_dying_standby_counts_as_a_dying_process": 78,
    "a_failback_at_once": 2, "a_failback_before_it_is_ready": 13, "a_failback_below_the_top_rung": 13,
    "a_failback_costs_what_a_dataset_has_changed": 54, "a_failback_for_each_that_fell_back": 31,
    "a_failback_is_given_work": 13, "a_failback_that_is_of_no_use_stays": 13,
    "a_failback_without_room_is_a_fault": 31, "a_false_alarm_kills": 32,
    "a_fault_that_ends_the_loader_promises_more": 93, "a_good_task_changes_nothing": 11, "a_hang_doubles_nothing": 32,
    "a_hunt_leaves_its_traces": 20, "a_hunt_looks_in_the_wrong_half": 50, "a_lease_is_freed_at_the_kill": 11,
    "a_lease_returned_twice_frees_its_slot": 18, "a_loss_by_anothers_doing_is_a_fault": 22,
    "a_lost_shadow_is_asked": 13, "a_mark_of_what_was_not_got": 45, "a_new_copy_does_not_learn_of_it": 72,
    "a_new_shadow_does_not_replace_the_old": 2, "a_planned_task_waits": 2,
    "a_probed_copy_goes_on_although_there_is_a_shadow": 100, "a_process_that_does_not_end_is_waited_for": 3,
    "a_raised_task_has_no_digest": 31, "a_refusal_is_taken_lightly": 51,
    "a_refused_worker_waits_for_a_process_for_ever": 162, "a_second_attempt_has_no_more_time": 32,
    "a_shadow_does_not_learn_of_it": 30, "a_shadow_is_not_used": 253, "a_shadow_taken_at_the_end_is_left": 2,
    "a_shadow_that_holds_nobody_stays": 20, "a_shared_process_that_starts_is_killed": 9,
    "a_skipped_sample_is_loaded": 50, "a_slow_start_is_killed_when_it_is_told": 5,
    "a_slow_start_is_told_again_and_again": 11, "a_small_batch_keeps_its_lease": 19,
    "a_standby_that_was_stopped_is_not_looked_at": 3, "a_start_that_was_stopped_is_no_longer_measured": 240,
    "a_starting_process_is_left_behind": 2, "a_state_before_all_have_begun_the_epoch": 15,
    "a_surplus_slot_is_used_again": 4, "a_way_that_is_wrong_is_the_last": 671,
    "a_worker_goes_to_another_than_its_shadows_process": 253, "a_worker_is_hosted_in_another_epoch": 13,
    "a_worker_is_told_the_epoch_before": 2, "a_worker_leaves_what_only_its_shadow_keeps": 100,
    "a_worker_moves_with_tasks_in_flight": 13, "a_worker_that_moved_stays_in_its_shadow": 20,
    "a_worker_that_should_move_stays": 60, "all_epochs_are_done_again_although_one_was_broken_off": 41,
    "all_epochs_are_taken_for_this_one": 18, "an_abandoned_batch_keeps_its_lease": 2,
    "an_abandoned_process_gives_its_lease_back": 11, "an_abandoned_process_is_not_lost": 4,
    "an_abandoned_process_stays_on_the_books": 4, "an_abandoned_task_is_delivered": 2,
    "an_answer_counts_whoever_gives_it": 43, "an_answer_is_taken_for_another": 3,
    "an_ended_iterator_stays_in_turn": 12, "an_epoch_is_not_done_again_in_a_new_copy": 13,
    "an_epoch_is_not_redone": 13, "an_unkillable_process_is_waited_for": 14, "any_death_doubles_the_deadline": 21,
    "any_death_while_setting_up_doubles_the_deadline": 6, "any_number_of_faults_is_borne": 17,
    "any_refusal_ends_it": 107, "batches_leave_as_they_come": 3, "digests_of_what_was_not_got_go_along": 45,
    "draws_are_not_counted_on": 11, "loaded_batches_are_kept_at_the_end": 3,
    "making_a_new_iterator_moves_nothing": 13, "making_the_first_iterator_moves_nothing": 33, "never_up_again": 21,
    "no_deadline_is_set": 6, "no_fallback": 17, "no_state_after_the_end": 14, "nobody_makes_room_for_a_failback": 60,
    "old_faults_count_for_ever": 11, "one_batch_too_few_is_taken_back": 7, "only_the_oldest_message_can_hold_up": 63,
    "only_what_is_known_to_have_changed_is_done_again": 3, "policy_is_not_asked_what_to_do_about_it": 22,
    "rare_faults_are_borne_for_ever": 66, "setting_up_is_tried_for_ever": 16, "shadows_are_left_at_the_end": 2,
    "silence_is_not_seen": 3, "standbys_are_tried_for_ever": 118, "tasks_are_sent_to_who_is_not_at_its_place": 22,
    "the_end_of_an_epoch_is_not_kept": 33, "the_end_of_the_epoch_stands": 228,
    "the_epochs_first_state_is_not_kept": 33, "the_generators_stay_behind": 13,
    "the_ladder_loses_what_datasets_have_changed": 54, "the_log_before_the_first_mark_is_forgotten": 87,
    "the_tasks_of_others_are_cancelled": 54, "the_turn_is_not_kept": 29, "the_turn_is_not_restored": 11,
    "the_worker_goes_on_from_where_it_is": 163, "the_wrong_sample_is_convicted": 31, "too_much_is_replayed": 45,
    "what_a_dataset_has_changed_is_lost_without_a_word": 3, "what_another_had_killed_gets_work": 18,
    "what_comes_back_with_a_request_is_lost": 2, "what_earlier_epochs_left_is_missing": 13,
    "what_hurt_a_process_is_forgotten": 54, "what_hurt_is_given_up_too_early": 21,
    "what_hurt_waits_for_a_process_for_ever": 162, "what_is_done_again_begins_with_the_last_generators": 3,
    "what_is_loaded_again_is_not_compared": 16, "what_is_on_its_way_and_abandoned_is_begun": 7,
    "what_is_planned_again_counts_as_drawn": 7, "what_is_taken_back_still_counts_as_got": 7,
    "what_is_wanted_is_passed_over": 53, "what_left_the_queue_is_got_in_the_next_epoch": 53,
    "what_waited_for_a_false_alarm_is_not_sent": 108, "what_waits_and_is_abandoned_is_sent": 7,
    "what_was_done_since_a_shadow_is_not_redone": 13, "what_was_handed_over_counts_as_got": 7,
    "what_was_handed_over_is_not_told": 21, "what_was_loaded_ahead_is_not_loaded_again": 7,
    "what_was_lost_and_is_abandoned_is_sent_again": 11, "what_was_not_received_is_lost": 30,
    "what_was_passed_over_keeps_its_memory": 50, "what_was_prefetched_counts_as_got": 33,
    "what_was_refused_is_left_out_at_once": 21, "what_was_refused_is_tried_again_in_the_trainer": 21,
    "who_begins_anew_is_not_told_of": 161, "who_fell_back_stays": 31,
    "who_is_behind_in_the_trainer_is_waited_for": 47, "who_went_wrong_once_is_taken_as_it_comes": 164,
    "who_works_for_another_is_never_looked_at_again": 52, "whoever_waited_gets_it_unasked": 30,
    "work_for_another_is_a_failed_start": 151, "work_for_another_is_a_hang": 134, "workers_with_changes_move": 54,
}  # fmt: skip
"""The first walk that noticed a mutant, where it was not one of the first two. It is tried first: an entry that a change
made stale costs only time. ``python -m tests.core.test_mutants`` says what they are now."""


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


def _first_to_notice(mutant: Mutant) -> int:
    with mutant.applied() as supervisor:
        return next(seed for seed in range(SEEDS) if notices(seed, supervisor))


if __name__ == "__main__":
    firsts = {mutant.name: _first_to_notice(mutant) for mutant in MUTANTS}
    print({name: first for name, first in sorted(firsts.items()) if first > 1})
