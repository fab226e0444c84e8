from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from safeloader.core.bisection import Bisection


def run(suspects: tuple[int, ...], kills: set[int], together: bool = False) -> tuple[Bisection, int]:
    """Hunt until there is a verdict. Returns the hunt and the number of probes."""
    hunt, probes = Bisection(suspects), 0
    while hunt.verdict is None:
        part = set(hunt.probe())
        assert part
        assert part < set(suspects)
        probes += 1
        if kills <= part if together else kills & part:
            hunt.died()
        else:
            hunt.survived()
    return hunt, probes


@given(st.integers(1, 300), st.data())
def test_one_culprit_is_found_in_about_two_probes_a_halving(size: int, data: st.DataObject) -> None:
    culprit = data.draw(st.integers(0, size - 1))
    hunt, probes = run(tuple(range(size)), {culprit})
    assert hunt.verdict == (culprit,)
    assert probes <= 2 * size.bit_length()


@given(st.sets(st.integers(0, 63), min_size=1, max_size=64))
def test_of_several_culprits_one_is_found(kills: set[int]) -> None:
    hunt, _ = run(tuple(range(64)), kills)
    assert hunt.verdict is not None
    assert len(hunt.verdict) == 1
    assert set(hunt.verdict) <= kills


@given(st.integers(2, 64))
def test_a_batch_that_does_no_harm_in_parts_has_no_culprit(size: int) -> None:
    hunt, probes = run(tuple(range(size)), set())
    assert hunt.verdict == ()
    assert probes == 2


def test_samples_that_kill_only_together_are_named_together_as_far_as_can_be_told() -> None:
    hunt, _ = run(tuple(range(8)), {0, 2}, together=True)
    assert hunt.verdict == (0, 1, 2, 3)


def test_a_single_suspect_needs_no_probe() -> None:
    assert Bisection((7,)).verdict == (7,)


def test_the_suspects_need_not_be_neighbours() -> None:
    hunt, _ = run((1, 5, 6, 20), {20})
    assert hunt.verdict == (20,)
