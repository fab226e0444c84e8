"""Ranks that iterate a loader differently are told so, and no rank ever waits for another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.programs import run_torchrun

Heard = dict[str, list[Any]]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    folder = str(tmp_path_factory.mktemp("ranks"))
    code, out, err = run_torchrun("-m", "tests.distributed.differing_ranks", folder, ranks=2)
    assert code == 0, err
    told: Heard = json.loads(out.splitlines()[-1])
    return told


pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    "what", ["the same", "only rank 0", "one more pass on rank 0", "both resume", "other seeds, unwatched"]
)
def test_nothing_is_said_where_nothing_is_wrong(heard: Heard, what: str) -> None:
    assert heard[what] == [[], []]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("other lengths", "samples in the dataset: 20 on rank 1, 24 on rank 0; batches: 3 on rank 1, 3 on rank 0"),
        ("other seeds", "seed of the sampler: 1 on rank 1, 0 on rank 0"),
        ("one of two resumes", "place in the epoch (batch, sample): [1, 0] on rank 1, [0, 0] on rank 0"),
        ("other batches, as an error", "batches: 4 on rank 1, 3 on rank 0"),
    ],
)
def test_other_data_is_an_error_on_the_rank_that_comes_second(heard: Heard, what: str, words: str) -> None:
    first, (second,) = heard[what]
    assert first == []
    assert second.startswith("error: ranks 1 and 0 differ about ")
    assert words.partition("; ")[0] in second
    assert 'Policy(rank_check="off")' in second


@pytest.mark.parametrize("what", ["other batches", "other seeds, as a warning"])
def test_another_number_of_batches_is_a_warning_said_once(heard: Heard, what: str) -> None:
    first, (second,) = heard[what]
    assert first == []
    assert second.startswith("warning: ranks 1 and 0 differ about loader ")


def test_the_remedies_for_uneven_ranks_are_named(heard: Heard) -> None:
    (second,) = heard["other batches"][1]
    assert all(word in second for word in ("drop_last=True", 'ElasticDistributedSampler(ends="even")', "Join"))


def test_streams_of_unknown_length_are_told_of_while_one_rank_stands_and_at_the_end(heard: Heard) -> None:
    first, second = heard["streams"]
    assert first == []
    stood, ended = (line for line in second if "streams" in line and "nothing moves" not in line and "epoch 0" in line)
    assert stood.startswith("log: streams, epoch 0 has ended on rank 0 after 5 batches, and rank 1 has received 6")
    assert ended.startswith("warning: streams, epoch 0 ended after 7 batches on rank 1, and after 5 on rank 0")


def test_a_skipped_sample_leaves_the_ranks_as_many_batches(heard: Heard) -> None:
    assert heard["skipping"] == [[4, 4, 4], [3, 4, 4]]


def test_a_recovery_is_kept_shorter_than_the_process_groups_timeout(heard: Heard) -> None:
    shortened, short, long, strict = heard["patience"]
    (said,) = shortened
    assert said.startswith("log: train: batch_timeout is limited to 18 s")
    assert short == []
    (said,) = long
    assert said.startswith("warning: train: a sample that hangs can delay this rank by 453 s (3 attempts")
    assert "batch_timeout=18, or init_process_group(timeout=timedelta(seconds=566))" in said
    (said,) = strict
    assert said.startswith("error: train: a sample that hangs")


@pytest.mark.parametrize("what", ["frozen", "gone"])
def test_without_an_answering_store_the_epochs_go_on_and_it_is_said_once(heard: Heard, what: str) -> None:
    (no_lengths, nothing), (lengths, lines) = heard[what]
    assert no_lengths == nothing == []
    assert lengths == [3, 3, 3]
    (said,) = lines
    assert said.startswith("log: ranks are not compared, because the store of the process group does not answer: ")
    # A call from when it was frozen may still be under way when it is gone.
    assert "did not answer within 1 s" in said or (what == "gone" and "ConnectionRefusedError" in said), said
