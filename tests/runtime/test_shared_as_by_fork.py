"""Memory and locks that a fork context made stay shared with spawned workers, as fork would leave them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from safeloader import DataLoader
from safeloader.runtime import by_value
from tests import programs
from tests.runtime.carrying import through, written

pytestmark = pytest.mark.timeout(300)


def run(*how: str) -> Any:
    done = programs.run("-W", "ignore", "-m", "tests.runtime.shared_as_by_fork", *how, seconds=200)
    assert done.code == 0, done.err
    return json.loads(done.out.splitlines()[-1])


@pytest.fixture(scope="module")
def torchs() -> Any:
    return run("torch")[0]


@pytest.mark.parametrize("how", ["", "unprivileged"])
def test_workers_and_trainer_share_what_torch_s_forked_workers_share(how: str, torchs: Any) -> None:
    told, exchanged = run("safeloader", *how.split())
    assert told == torchs
    assert exchanged or not how


@pytest.mark.parametrize(
    ("how", "words"), [("elsewhere", "other processes share it by fork already"), ("waiting", "a thread waits for it")]
)
def test_what_cannot_be_exchanged_without_harm_is_refused(how: str, words: str) -> None:
    assert words in run("safeloader", "unprivileged", how)


def test_arrays_over_memory_of_their_own_go_as_ever() -> None:
    whole = np.arange(12.0).reshape(3, 4)
    for array in (
        whole,
        whole[1:, ::2],
        whole.T,
        np.frombuffer(b"12345678", np.int64),
        np.ma.array([1, 2], mask=[0, 1]),
    ):
        got = through(array)
        assert type(got) is type(array)
        assert np.array_equal(got, array)
    packed = by_value.pack([whole[1:]])
    assert packed.fds == [] or packed.tracker == 0
    packed.close()


@pytest.mark.usefixtures("forked")
def test_what_was_kept_of_a_batch_is_copied_since_its_memory_is_used_again() -> None:
    with DataLoader(torch.arange(8), 4, num_workers=1) as loader:
        batch = next(iter(loader))
        for kept in (batch, batch.numpy()[1:]):
            packed = by_value.pack([kept])
            got, _ = by_value.read(written(packed))
            packed.close()
            got[0][:] = 7
            assert 7 not in kept
