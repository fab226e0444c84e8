from __future__ import annotations

from dataclasses import replace

import pytest

from safeloader.core.policy import (
    CoreSettings,
    Deadlines,
    RestartWindow,
    ladder,
    longest_batch_timeout,
    worst_recovery,
)


@pytest.mark.parametrize(
    ("top", "fallback", "rungs"),
    [
        (4, "inline", (4, 2, 1, 0)),
        (3, "inline", (3, 1, 0)),
        (1, "inline", (1, 0)),
        (0, "inline", (0,)),
        (4, "process", (4, 2, 1)),
        (0, "process", (0,)),
        (4, "off", (4,)),
    ],
)
def test_the_ladder_halves_down_to_what_policy_allows(top: int, fallback: str, rungs: tuple[int, ...]) -> None:
    assert ladder(top, fallback) == rungs


def test_more_faults_than_the_limit_within_the_period_are_too_many() -> None:
    window = RestartWindow(2, 60.0)
    assert [window.add(now) for now in (0.0, 1.0, 2.0)] == [False, False, True]


def test_faults_older_than_the_period_are_forgotten() -> None:
    window = RestartWindow(1, 60.0)
    for now in (0.0, 61.0, 122.0):
        assert not window.add(now)
        window.row = 0  # something was finished in between


def test_faults_in_a_row_count_however_far_apart() -> None:
    window = RestartWindow(2, 60.0)
    assert [window.add(now) for now in (0.0, 1000.0, 2000.0)] == [False, False, True]


def test_the_count_begins_anew_once_something_was_done() -> None:
    window = RestartWindow(1, 60.0)
    window.add(0.0)
    window.clear()
    assert not window.add(1.0)


def test_faults_that_were_explained_are_taken_back() -> None:
    window = RestartWindow(2, 60.0)
    window.add(0.0)
    window.add(1.0)
    window.forgive(2)
    assert not window.add(2.0)
    window.forgive(100)
    assert not window.add(3.0)


def test_each_attempt_doubles_a_deadline() -> None:
    deadlines = Deadlines(10.0, 300.0)
    assert [deadlines.batch(n) for n in range(3)] == [10.0, 20.0, 40.0]
    assert [deadlines.startup(n) for n in range(3)] == [300.0, 600.0, 1200.0]
    assert deadlines.batch(1000) == deadlines.batch(16)


def test_automatic_deadlines_stay_between_floor_and_ceiling() -> None:
    deadlines = Deadlines("auto", 300.0)
    assert deadlines.learns
    assert deadlines.batch(0) == Deadlines.UNTAUGHT
    deadlines.observe(0.01, first=False)
    assert deadlines.batch(0) == Deadlines.FLOOR
    deadlines.observe(4.0, first=False)
    assert deadlines.batch(0) == 20.0
    deadlines.observe(1e6, first=False)
    assert deadlines.batch(0) == Deadlines.CEILING


def test_a_slow_first_batch_teaches_only_about_first_batches() -> None:
    deadlines = Deadlines("auto", 300.0)
    deadlines.observe(4.0, first=False)
    deadlines.observe(60.0, first=True)
    assert (deadlines.batch(0, first=True), deadlines.batch(0)) == (300.0, 20.0)


def test_a_given_deadline_learns_nothing() -> None:
    assert not Deadlines(10.0, 300.0).learns


def test_a_recovery_takes_all_attempts_with_doubled_deadlines_and_the_ends_of_their_processes() -> None:
    settings = CoreSettings(2, batch_timeout=10.0, bad_sample_attempts=2, capture_timeout=1.0, kill_timeout=10.0)
    assert worst_recovery(settings) == 10 + 20 + 40 + 3 * 11
    assert worst_recovery(replace(settings, bad_sample_attempts=1)) == 10 + 20 + 2 * 11
    assert worst_recovery(replace(settings, batch_timeout="auto", learned_ceiling=5.0)) == 5 * 7 + 3 * 11


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_longest_batch_timeout_is_that_whose_recovery_takes_just_so_long(attempts: int) -> None:
    settings = CoreSettings(2, bad_sample_attempts=attempts)
    longest = longest_batch_timeout(settings, 1000.0)
    assert worst_recovery(replace(settings, batch_timeout=longest)) == pytest.approx(1000.0)
    assert longest_batch_timeout(settings, 20.0) < 0


def test_a_ceiling_holds_for_what_is_learned_and_for_what_is_not_yet() -> None:
    deadlines = Deadlines("auto", 300.0, ceiling=60.0)
    assert deadlines.batch(0) == 60.0
    deadlines.observe(4.0, first=False)
    assert deadlines.batch(0) == 20.0
    deadlines.observe(1e6, first=False)
    assert deadlines.batch(0) == 60.0
