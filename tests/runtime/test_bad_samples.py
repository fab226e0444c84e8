"""A sample that kills or hangs every process that loads it: found, named, and raised or left out."""

from __future__ import annotations

import pytest

from safeloader import Policy
from safeloader.errors import BadSampleError
from tests.fixtures_data import CollateDiesWith, Draws, DrawsAtOnce, Orders, Stream
from tests.runtime.harness import COUNT, make, processes_of

pytestmark = pytest.mark.usefixtures("forked")

ONCE_MORE = 1  # bad_sample_attempts: two processes are enough for a verdict, and quicker
BAD = 24


def _indices(loader: object) -> list[int]:
    return [int(row[0]) for batch in loader for row in batch]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("deed", "cause"), [("SIGKILL", "died"), ("sleep", "hung"), ("SIGSTOP", "stopped")])
def test_a_bad_sample_is_an_error_that_names_it(orders: Orders, deed: str, cause: str) -> None:
    orders.give("sample", BAD, deed, always=True)
    policy = Policy(bad_sample_attempts=ONCE_MORE, batch_timeout=1.0, max_restarts=100, max_processes=1)
    loader = make(Draws(COUNT, orders), shuffle=False, policy=policy)
    stream = iter(loader)
    delivered = [int(row[0]) for _ in range(6) for row in next(stream)]
    with pytest.raises(BadSampleError, match="sample 24") as caught:
        next(stream)
    error = caught.value
    assert (error.indices, error.cause, error.batch, error.worker) == ([BAD], cause, 6, 0)
    assert "2 of 2" in error.attempt
    assert 'on_bad_sample="skip"' in error.hint
    assert error.story
    if deed == "sleep":
        assert "fixtures_data.py" in (error.stack or "")
    assert [fault.attempts for fault in loader.report().faults if fault.sample == BAD] == [1, 2]
    delivered += [int(row[0]) for batch in stream for row in batch]
    assert delivered == [index for index in range(COUNT) if index // 4 != 6]  # its batch is lost, and no other


def test_by_default_three_processes_have_to_die_of_a_sample(orders: Orders) -> None:
    orders.give("sample", BAD, "SIGKILL", always=True)
    loader = make(Draws(COUNT, orders), shuffle=False, policy=Policy(max_processes=1))
    with pytest.raises(BadSampleError, match="sample 24") as caught:
        list(loader)
    assert "3 of 3" in caught.value.attempt


def test_bad_samples_are_left_out_and_reported_where_policy_says_so(orders: Orders) -> None:
    """One kills, one hangs, one stops its process, one raises: all others arrive, in order."""
    deeds = {5: "SIGKILL", 14: "sleep", 23: "SIGSTOP", 32: "ValueError"}
    for index, deed in deeds.items():
        orders.give("sample", index, deed, always=True)
    policy = Policy(bad_sample_attempts=ONCE_MORE, batch_timeout=1.0, max_restarts=100, on_bad_sample="skip")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=policy)
    assert _indices(loader) == [index for index in range(COUNT) if index not in deeds]
    report = loader.report()
    assert sorted(report.skipped) == [(0, index // 4, index) for index in deeds]
    assert {fault.sample for fault in report.faults} >= {5, 14, 23}


def test_a_batch_of_nothing_but_bad_samples_is_passed_over(orders: Orders) -> None:
    for index in (8, 9):
        orders.give("sample", index, "ValueError", always=True)
    orders.give("sample", 12, "SIGKILL", always=True)
    policy = Policy(bad_sample_attempts=ONCE_MORE, on_bad_sample="skip")
    loader = make(Draws(20, orders), shuffle=False, batch_size=2, policy=policy)
    assert _indices(loader) == [index for index in range(20) if index not in (8, 9, 12)]
    assert [index for _, _, index in loader.report().skipped] == [8, 9, 12]


def test_a_bad_sample_in_a_batch_that_is_fetched_at_once_is_found_by_halving(orders: Orders) -> None:
    orders.give("sample", BAD + 2, "SIGKILL", always=True)
    policy = Policy(bad_sample_attempts=ONCE_MORE, max_restarts=100, on_bad_sample="skip", max_processes=1)
    loader = make(DrawsAtOnce(COUNT, orders), shuffle=False, policy=policy)
    assert _indices(loader) == [index for index in range(COUNT) if index != BAD + 2]
    assert loader.report().skipped == [(0, 6, BAD + 2)]


def test_a_sample_that_kills_only_when_it_is_collated_is_found_by_halving() -> None:
    policy = Policy(bad_sample_attempts=ONCE_MORE, max_restarts=100, max_processes=1)
    loader = make(Draws(COUNT), shuffle=False, collate_fn=CollateDiesWith(BAD + 1), policy=policy)
    stream = iter(loader)
    delivered = [int(row[0]) for _ in range(6) for row in next(stream)]
    with pytest.raises(BadSampleError) as caught:
        next(stream)
    assert caught.value.indices == [BAD + 1]
    delivered += [int(row[0]) for batch in stream for row in batch]
    assert delivered == [index for index in range(COUNT) if index // 4 != 6]


def test_a_single_bad_sample_without_batches_is_left_out(orders: Orders) -> None:
    orders.give("sample", BAD, "exit 0", always=True)
    policy = Policy(bad_sample_attempts=ONCE_MORE, on_bad_sample="skip")
    loader = make(Draws(COUNT, orders), shuffle=False, batch_size=None, policy=policy)
    assert [int(sample[0]) for sample in loader] == [index for index in range(COUNT) if index != BAD]
    assert loader.report().skipped == [(0, BAD, BAD)]


def test_where_an_iterable_dataset_always_kills_its_worker_ends_and_the_others_go_on(orders: Orders) -> None:
    orders.give("stream", "0-9", "SIGKILL", always=True)
    policy = Policy(bad_sample_attempts=ONCE_MORE, max_restarts=100)
    loader = make(Stream(COUNT, orders), policy=policy)
    stream = iter(loader)
    delivered, errors = [], []
    while True:
        try:
            delivered += [int(row[0]) for row in next(stream)]
        except BadSampleError as error:
            errors.append(error)
        except StopIteration:
            break
    assert [(error.worker, error.cause, error.indices) for error in errors] == [(0, "died", [])]
    assert "cannot be named" in errors[0].hint
    assert set(delivered) >= {index for index in range(COUNT) if index % 3 == 1}  # all of worker 1
    assert len(delivered) == 8 + 15
    assert processes_of(loader) == []
