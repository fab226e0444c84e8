from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeloader.core.leases import Leases
from safeloader.core.messages import Lease


def test_the_slot_that_came_back_last_is_given_out_first() -> None:
    leases = Leases(keep=8)
    first, second = leases.acquire(), leases.acquire()
    leases.give_back(first)
    leases.give_back(second)
    assert leases.acquire().slot == second.slot


def test_a_second_return_changes_nothing_under_the_slots_new_holder() -> None:
    leases = Leases(keep=8)
    old = leases.acquire()
    leases.give_back(old)
    new = leases.acquire()
    assert new.slot == old.slot
    leases.give_back(old)
    assert leases.holds(new)
    assert not leases.holds(old)


def test_a_retired_slot_is_never_used_again() -> None:
    leases = Leases(keep=8)
    lost = leases.acquire()
    leases.retire(lost)
    leases.give_back(lost)
    assert lost.slot not in {leases.acquire().slot for _ in range(20)}


def test_the_arena_grows_as_long_as_leases_are_kept() -> None:
    leases = Leases(keep=2)
    assert len({leases.acquire().slot for _ in range(100)}) == 100
    assert leases.held == 100


def test_more_free_slots_than_can_be_used_go_back_to_the_system_coldest_first() -> None:
    leases = Leases(keep=2)
    held = [leases.acquire() for _ in range(4)]
    assert [leases.give_back(lease) for lease in held] == [None, None, 0, 1]
    assert {leases.acquire().slot for _ in range(2)} == {2, 3}


@given(st.lists(st.tuples(st.sampled_from(["acquire", "give back", "retire"]), st.integers(0, 20)), max_size=60))
def test_every_slot_is_in_exactly_one_place_whatever_happens(steps: list[tuple[str, int]]) -> None:
    leases, seen = Leases(keep=3), [Lease(0, 0)]
    for step, number in steps:
        if step == "acquire":
            new = leases.acquire()
            assert new not in seen
            seen.append(new)
        elif step == "give back":
            leases.give_back(seen[number % len(seen)])
        else:
            leases.retire(seen[number % len(seen)])
        leases.validate()


def test_validation_notices_a_slot_in_two_places() -> None:
    leases = Leases(keep=3)
    leases.retired.add(leases.acquire().slot)
    with pytest.raises(AssertionError, match="two places"):
        leases.validate()
