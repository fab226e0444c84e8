"""A map-style dataset that changes itself while it loads: another program goes on from a state with what it had changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy
from safeloader.core import new_copy
from safeloader.core.state import AsNew, Redo, WorkerCursor, WorkerPosition
from safeloader.resume.standings import begins_of, standing_of, standing_to
from tests.runtime.harness import TORCHS, _bytes, kill_all, seed

pytestmark = pytest.mark.usefixtures("forked")
BATCHES = 8


class Counting(Dataset[torch.Tensor]):
    """Each sample tells how many its worker has loaded since it began, and what the first one drew."""

    def __init__(self) -> None:
        self.count, self.first = 0, None

    def __len__(self) -> int:
        return BATCHES * 3

    def __getitem__(self, index: int) -> torch.Tensor:
        self.count += 1
        if self.first is None:
            self.first = torch.rand(1)
        return torch.stack(
            [torch.tensor(float(index)), torch.tensor(float(self.count)), self.first[0], torch.rand(1)[0]]
        )


class Collating:
    """A collate function that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, samples: list[Any]) -> torch.Tensor:
        self.count += 1
        return torch.stack([*samples, torch.full((4,), float(self.count))])


def options(persistent: bool) -> dict[str, Any]:
    return {
        "batch_size": 3,
        "shuffle": True,
        "num_workers": 2,
        "persistent_workers": persistent,
        "collate_fn": Collating(),
    }


def make(persistent: bool, **policy: Any) -> DataLoader[Any]:
    return DataLoader(Counting(), name="train", policy=Policy(**policy), **options(persistent))


@pytest.fixture(scope="module", params=[False, True], ids=["", "persistent"])
def undisturbed(request: pytest.FixtureRequest) -> tuple[bool, list[bytes]]:
    """Three epochs of torch's."""
    loader = TorchLoader(Counting(), multiprocessing_context=TORCHS, **options(request.param))
    seed()
    return request.param, [_bytes(batch) for _ in range(3) for batch in loader]


@pytest.mark.parametrize(
    ("after", "processes"),
    [(1, None), (5, 0), (BATCHES, None), (BATCHES + 2, None), (2 * BATCHES, 0), (2 * BATCHES + 7, None)],
)
def test_another_program_goes_on_with_what_was_changed(
    after: int, processes: int | None, undisturbed: tuple[bool, list[bytes]]
) -> None:
    persistent, whole = undisturbed
    seed()
    with make(persistent, max_processes=processes) as loader:
        got = 0
        while got < after:
            iterator = iter(loader)
            for _ in range(min(BATCHES, after - got)):
                next(iterator)
                got += 1
            if got < after or after % BATCHES == 0:
                assert next(iterator, None) is None
        state = json.loads(json.dumps(loader.state_dict()))
    with make(persistent) as loader:
        loader.load_state_dict(state)
        came = [_bytes(batch) for batch in loader]
        again = json.loads(json.dumps(loader.state_dict()))
    assert came == whole[after : after + len(came)]
    assert len(came) == BATCHES - after % BATCHES or after == 2 * BATCHES
    with make(persistent) as loader:
        loader.load_state_dict(again)
        for number, batch in enumerate(loader if after + len(came) < len(whole) else ()):
            assert _bytes(batch) == whole[after + len(came) + number]
            if number == 1:
                kill_all(loader)


def test_a_state_taken_before_a_worker_has_loaded_anything_has_what_the_last_one_had(
    undisturbed: tuple[bool, list[bytes]],
) -> None:
    persistent, whole = undisturbed
    seed()
    with make(persistent) as loader:
        iterator = iter(loader)
        for _ in range(5):
            next(iterator)
        state = loader.state_dict()
    for _ in range(2):
        with make(persistent) as loader:
            loader.load_state_dict(state)
            iter(loader)
            state = loader.state_dict()
    with make(persistent) as loader:
        loader.load_state_dict(state)
        kill = True
        for number, batch in enumerate(loader, 5):
            assert _bytes(batch) == whole[number]
            if kill:
                kill_all(loader)
                kill = False


def test_what_would_take_too_long_to_do_again_is_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_copy, "MOST", 2)
    seed()
    with make(persistent=False) as loader:
        iterator = iter(loader)
        for _ in range(7):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
    with make(persistent=False) as loader:
        loader.load_state_dict(state)
        next(iter(loader))
        lost = [replay for replay in loader.report().replays if replay.outcome == "lost"]
        assert {replay.worker for replay in lost} == {0, 1}
        assert "is in no state" in str(loader.report())


def test_a_dataset_that_changes_nothing_has_the_state_that_it_had() -> None:
    class Plain(Counting):
        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.rand(4)

    with DataLoader(Plain(), **{**options(False), "collate_fn": None}) as loader:
        iterator = iter(loader)
        for _ in range(6):
            next(iterator)
        assert not any("changed" in worker for worker in loader.state_dict()["workers"])


def test_what_was_done_comes_back_as_it_was() -> None:
    done = (
        Redo(1), *(Redo(None, list(range(number, number + 300))) for number in range(3)), Redo(None, [1, 2], (1,)), Redo(None, 5),
        Redo(None, [2**70]), Redo(None, [True, 1]), Redo(None, []), Redo(None, [(1, "a")]), Redo(None, back=WorkerPosition(2, None)),
    )  # fmt: skip
    cursor = WorkerCursor(3, False, None, None, changed=True, as_new=AsNew(0, 2, None), done=done)
    told = json.loads(json.dumps(standing_of(cursor, [(0, (None, 0, 4)), (1, (None, 1, 5)), (2, (None, 2, 6))])))
    assert repr(standing_to(told)) == repr(cursor)
    assert begins_of([told, told]) == ((0, (None, 0, 4)), (1, (None, 1, 5)))
    lost = cursor._replace(done=None, as_new=None)
    assert standing_to(json.loads(json.dumps(standing_of(lost, [])))) == lost
