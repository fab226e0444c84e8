"""What earlier epochs left in an iterable dataset: without a copy of its process, a new one does them again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset, get_worker_info

import safeloader
from safeloader import DivergenceError, Policy, WorkerPool
from safeloader.core import new_copy
from tests.runtime.harness import TORCHS, _bytes, kill_all, seed

pytestmark = pytest.mark.usefixtures("forked")

OPTIONS: dict[str, Any] = {"batch_size": 3, "num_workers": 2, "persistent_workers": True}
EPOCHS = 3

_served = 0


class Onward(IterableDataset[torch.Tensor]):
    """Goes on where its last epoch stood; shuffles with a generator of its own; counts in a global, too."""

    def __init__(self) -> None:
        self.place = 0
        self.shuffle = random.Random(3)
        self.noise = np.random.default_rng(4)
        self.cache: dict[int, int] = {}

    def __iter__(self) -> Iterator[torch.Tensor]:
        global _served  # noqa: PLW0603 - it is what is kept
        info = get_worker_info()
        waiting = []
        for _ in range(10 + self.place % 3):
            self.place += 1
            _served += 1
            self.cache[self.place % 5] = self.place
            drawn = int(self.noise.integers(1000)) + random.randrange(1000) + int(torch.randint(1000, ()))
            waiting.append(torch.tensor([info.id if info else 0, self.place, _served, sum(self.cache.values()), drawn]))
            if len(waiting) > 3:
                yield waiting.pop(self.shuffle.randrange(len(waiting)))
        yield from waiting


class Telling(Onward):
    """Tells where it stands, and leaves out what it changed besides."""

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def expected() -> list[list[bytes]]:
    seed()
    loader: Any = TorchLoader(Onward(), multiprocessing_context=TORCHS, **OPTIONS)
    return [[_bytes(batch) for batch in loader] for _ in range(EPOCHS)]


def play(loader: Any, kills: set[tuple[int, int]], first: int = 0) -> list[list[bytes]]:
    """All epochs; its processes are killed before these batches of these epochs."""
    seed()
    epochs = []
    for epoch in range(first, EPOCHS):
        got: list[bytes] = []
        if (epoch, -1) in kills:
            kill_all(loader)
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if (epoch, number) in kills:
                kill_all(loader)
        epochs.append(got)
    return epochs


KILLS = {
    "between two epochs": {(1, -1)},
    "with the first batch": {(2, 0)},
    "in the middle, and once more": {(1, 3), (2, 4)},
    "often": {(0, 2), (1, 1), (1, 4), (2, -1), (2, 2)},
}


@pytest.mark.parametrize(
    "when",
    [pytest.param(when, marks=pytest.mark.slow) for when in KILLS if "middle" not in when]
    + ["in the middle, and once more"],
)
def test_without_a_shadow_every_epoch_is_torchs(when: str) -> None:
    policy = Policy(shadow=False, max_restarts=99)
    with safeloader.DataLoader(Onward(), policy=policy, **OPTIONS) as loader:
        assert play(loader, KILLS[when]) == expected()
        assert loader.report().divergences == 0
        replays = [replay for replay in loader.report().replays if replay.epoch > 0]
        assert {(replay.source, replay.outcome) for replay in replays} <= {
            ("first", "same")
        }  # the first epoch is read again
        assert all(replay.compared == replay.of > 0 for replay in replays)


def test_on_a_pool_every_epoch_is_torchs() -> None:
    with WorkerPool(2, start_method="forkserver") as pool:
        loader = safeloader.DataLoader(Onward(), policy=Policy(pool=pool), **OPTIONS)
        assert play(loader, KILLS["in the middle, and once more"]) == expected()


@pytest.mark.slow
def test_workers_that_go_to_the_trainer_take_all_epochs_along() -> None:
    policy = Policy(shadow=False, max_restarts=0)
    with safeloader.DataLoader(Onward(), policy=policy, **OPTIONS) as loader:
        assert play(loader, KILLS["in the middle, and once more"]) == expected()
        assert loader.report().fallbacks > 0


@pytest.mark.slow
def test_what_a_dataset_tells_and_is_not_all_is_not_needed() -> None:
    policy = Policy(shadow=False, max_restarts=99)
    with safeloader.DataLoader(Telling(), policy=policy, **OPTIONS) as loader:
        assert play(loader, KILLS["in the middle, and once more"]) == expected()
        assert loader.report().divergences == 0


def test_who_goes_on_from_a_state_does_again_what_came_before_it() -> None:
    policy = Policy(shadow=False, max_restarts=99)
    wanted = expected()
    with safeloader.DataLoader(Onward(), policy=policy, **OPTIONS) as loader:
        seed()
        stream = iter(loader)
        got = [_bytes(next(stream)) for _ in range(4)]
        state = loader.state_dict()
    with safeloader.DataLoader(Onward(), policy=policy, **OPTIONS) as loader:
        loader.load_state_dict(state)
        first, *rest = play(loader, {(1, 2), (2, 1)})
        assert [got + first, *rest] == wanted


@pytest.mark.slow
def test_beyond_the_limit_it_is_an_error_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_copy, "MOST", 5)
    policy = Policy(shadow=False, max_restarts=99)
    with safeloader.DataLoader(Onward(), policy=policy, **OPTIONS) as loader, pytest.raises(DivergenceError):
        play(loader, KILLS["in the middle, and once more"])
