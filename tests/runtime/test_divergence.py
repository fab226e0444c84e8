"""What a dataset gives when it is read again is compared with what was delivered; where it differs, that is said."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

import safeloader
from safeloader import DivergenceError, Policy
from tests.fixtures_data import Orders
from tests.runtime import own_data as own
from tests.runtime.harness import _bytes, first_index, kill_all, seed
from tests.runtime.unshadowed import DataLoader

pytestmark = pytest.mark.usefixtures("forked")


def make(dataset: Any, **policy: Any) -> Any:
    return DataLoader(dataset, 4, num_workers=2, name="train", policy=Policy(batch_timeout=20, **policy))


def whole(loader: Any, kill_at: int = -1) -> list[bytes]:
    seed()
    got = []
    for number, batch in enumerate(loader):
        got.append(_bytes(batch))
        if number == kill_at:
            kill_all(loader)
    return got


def outcomes(loader: Any) -> set[tuple[str, str, str]]:
    return {(replay.source, replay.outcome, replay.action) for replay in loader.report().replays}


def test_a_stream_that_comes_again_as_it_was_is_said_to_be_complete(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "safeloader")
    with make(own.OwnStream(own.of_the_module)) as loader:
        whole(loader, kill_at=5)
        replays = loader.report().replays
    assert {(r.outcome, r.source, r.action) for r in replays} == {("same", "beginning", "goes on")}
    assert all(r.compared == r.of > 0 for r in replays)
    first = next(i for i, line in enumerate(caplog.messages) if "was killed by SIGKILL" in line)
    assert "loaded again and compared" in caplog.messages[first]
    assert "no batch is lost" not in caplog.messages[first]
    assert any("came again the same, no batch is lost" in line for line in caplog.messages[first:])


def test_an_unseeded_shuffle_is_named_and_ends_the_epoch(orders: Orders, caplog: pytest.LogCaptureFixture) -> None:
    with make(own.Unsteady(orders=orders)) as loader:
        orders.give("stream", "1-21", "SIGKILL")
        with pytest.raises(DivergenceError, match=r"worker 1 reads its epoch again, and it is not the same") as caught:
            whole(loader)
        assert (caught.value.worker, caught.value.how, caught.value.at) == (1, "differs", 0)
        assert caught.value.of in range(1, 6)
        assert loader.report().divergences == 1
    assert "no batch is lost" not in caplog.text


def test_an_unseeded_shuffle_goes_on_where_policy_says_so(orders: Orders, caplog: pytest.LogCaptureFixture) -> None:
    with make(own.Unsteady(orders=orders), on_divergence="warn") as loader:
        orders.give("stream", "1-21", "SIGKILL")
        seen = Counter(int(i) for batch in loader for i in batch)
        assert seen.total() == 64
        assert outcomes(loader) == {("beginning", "differs", "goes on")}
        assert loader.report().divergences == 1
        assert "1 divergence" in str(loader.report())
        assert loader.report().to_dict()["replays"][0]["outcome"] == "differs"
    assert "samples may come twice or never from here on" in caplog.text
    assert "no batch is lost" not in caplog.text


def test_strict_makes_an_error_of_it(orders: Orders) -> None:
    with make(own.Unsteady(orders=orders), on_divergence="warn", strict=True) as loader:
        orders.give("stream", "1-21", "SIGKILL")
        with pytest.raises(DivergenceError):
            whole(loader)


def test_an_epoch_that_ends_earlier_than_before_is_a_divergence(orders: Orders) -> None:
    orders.give("stream", "0-13", "SIGKILL")
    with make(own.Unsteady(orders=orders, shrinking=True)) as loader:
        with pytest.raises(DivergenceError, match=r"it ends after|is not the one") as caught:
            whole(loader)
        assert caught.value.how in ("differs", "ended")
        assert caught.value.at == 1


def test_it_is_found_at_the_lowest_rung_too(orders: Orders) -> None:
    with make(own.Unsteady(orders=orders), max_restarts=0) as loader:
        orders.give("stream", "1-21", "SIGKILL")
        orders.give("stream", "0-21", "SIGKILL")
        with pytest.raises(DivergenceError):
            whole(loader)


@pytest.mark.parametrize("kind", [own.HalfTold, own.Refusing], ids=["leaves something out", "is refused"])
def test_a_state_that_is_not_exact_is_not_needed(kind: type[own.HalfTold]) -> None:
    with make(kind(None, 96)) as loader:
        expected = whole(loader)
    with DataLoader(kind(None, 96), 4, num_workers=2, snapshot_every_n_steps=2) as loader:
        assert whole(loader, kill_at=9) == expected
        assert outcomes(loader) == {("beginning", "same", "goes on")}


@pytest.mark.parametrize("kind", [own.HalfTold, own.Refusing], ids=["leaves something out", "is refused"])
def test_a_state_that_is_trusted_and_is_not_exact_is_found_out(kind: type[own.HalfTold], orders: Orders) -> None:
    with make(kind(None, 96)) as loader:
        expected = whole(loader)
    orders.give("stream", f"1-{first_index(expected[13])}", "SIGKILL")  # two batches after the worker's last mark
    options: dict[str, Any] = {"num_workers": 2, "snapshot_every_n_steps": 8, "policy": Policy(trust_state=True)}
    with DataLoader(kind(None, 96, orders), 4, **options) as loader:
        assert whole(loader) == expected
        how = "refused" if kind is own.Refusing else "differs"
        assert outcomes(loader) == {("state", how, "reads again"), ("beginning", "same", "goes on")}


def test_later_epochs_of_living_workers_are_compared_too() -> None:
    options: dict[str, Any] = {"num_workers": 2, "persistent_workers": True, "snapshot_every_n_steps": 2}
    with DataLoader(own.HalfTold(None, 96), 4, **options) as loader:
        expected = [whole(loader) for _ in range(2)]
    with DataLoader(own.HalfTold(None, 96), 4, **options) as loader:
        assert [whole(loader), whole(loader, kill_at=9)] == expected
        ended_well = [replay for replay in loader.report().replays if replay.action == "goes on"]
        assert {replay.outcome for replay in ended_well} == {"same"}
        assert loader.report().divergences == 0


@pytest.mark.parametrize("kind", [own.HalfTold, own.Refusing], ids=["leaves something out", "is refused"])
def test_another_program_compares_what_came_after_the_state(kind: type[own.HalfTold]) -> None:
    with DataLoader(kind(None, 96), 4, num_workers=2, snapshot_every_n_steps=8) as loader:
        seed()
        expected = []
        for number, batch in enumerate(loader):
            expected.append(_bytes(batch))
            if number == 13:
                state = json.loads(json.dumps(loader.state_dict()))
    with DataLoader(kind(None, 96), 4, num_workers=2) as loader:
        loader.load_state_dict(state)
        assert whole(loader) == expected[14:]
        how = "refused" if kind is own.Refusing else "differs"
        assert ("state", how, "reads again") in outcomes(loader)
        assert ("beginning", "same", "goes on") in outcomes(loader)


def test_a_state_with_nothing_to_compare_warns_in_the_other_program(caplog: pytest.LogCaptureFixture) -> None:
    with DataLoader(own.HalfTold(None, 96), 4, num_workers=2, snapshot_every_n_steps=2) as loader:
        iterator = iter(loader)
        for _ in range(8):
            next(iterator)
        state = loader.state_dict()
    with DataLoader(own.HalfTold(None, 96), 4, num_workers=2) as loader:
        loader.load_state_dict(state)
        whole(loader)
        assert ("state", "unknown", "goes on") in outcomes(loader)
    assert "goes on from its dataset's own state, and there was nothing to compare with" in caplog.text


@pytest.mark.parametrize("kind", [own.Refusing, own.RefusingLate], ids=["at once", "with the first sample"])
def test_a_state_that_is_refused_is_not_needed_in_another_program(kind: type[own.HalfTold]) -> None:
    with DataLoader(kind(None, 96), 4, num_workers=2, snapshot_every_n_steps=2) as loader:
        seed()
        expected = []
        for number, batch in enumerate(loader):
            expected.append(_bytes(batch))
            if number == 7:
                state = json.loads(json.dumps(loader.state_dict()))
    with DataLoader(kind(None, 96), 4, num_workers=2) as loader:
        loader.load_state_dict(state)
        assert whole(loader) == expected[8:]
        assert ("state", "refused", "reads again") in outcomes(loader)


def test_the_error_is_public_and_says_what_is_known() -> None:
    error = safeloader.DivergenceError("it differs", worker=1, at=3, of=12, how="differs")
    assert (error.worker, error.at, error.of, error.how) == (1, 3, 12, "differs")
