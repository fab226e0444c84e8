"""Who holds the run, by what the ranks say of themselves: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeloader.distributed.board.judge import Sighting, judge, silent_after
from safeloader.distributed.board.rank_status import MOST_BYTES, RankStatus, decode, encode, status_of
from safeloader.distributed.board.words import named

CALMLY = settings(deadline=None, derandomize=True, database=None, max_examples=200)
LASTING = 60.0
STEP = RankStatus(
    0, 40, 5.0, "steps", 94.0, "node-1", 7, "train", 3, 4886, 10_000, 4, "train.py:90 in step", True, workers=4
)
WAITS = replace(STEP, state="waits", since=95.0, ready=0, worker=1, sample=51_203, working=94.0, place="", joined=False)


def seen(*rows: RankStatus, quiet: Mapping[int, float] | None = None) -> dict[int, Sighting]:
    return {rank: Sighting(replace(row, rank=rank), (quiet or {}).get(rank, 0.0)) for rank, row in enumerate(rows)}


def said(*rows: RankStatus, quiet: Mapping[int, float] | None = None, world: int | None = None) -> str:
    return judge(seen(*rows, quiet=quiet), world or len(rows), LASTING).said


def test_a_rank_that_waits_for_data_is_named_with_worker_and_sample() -> None:
    assert said(STEP, STEP, STEP, WAITS) == (
        "rank 3 waits for batch 4,886 of train: worker 1 has worked on sample 51,203 for 94 s; "
        "ranks 0, 1, 2 wait in the step"
    )


def test_without_a_sample_the_loaders_own_words_are_told() -> None:
    starting = replace(WAITS, sample=None, doing="process 77 is starting for worker 1", working=93.0)
    assert "rank 1 waits for batch 4,886 of train: process 77 is starting for worker 1, for 93 s" in said(
        STEP, starting
    )
    alone = replace(WAITS, sample=None, worker=None, workers=0, place="data.py:3 in __getitem__")
    assert "rank 1 waits for batch 4,886 of train for 95 s in the main process, at data.py:3" in said(STEP, alone)


def test_a_trainer_that_stands_outside_of_the_others_call_is_named_with_its_line() -> None:
    stands = replace(STEP, since=120.0, place="train.py:88 in step", joined=False)
    assert said(STEP, STEP, stands, STEP) == (
        "rank 2's loader is healthy, 4 batches ready; its trainer has stood at train.py:88 in step for 120 s; "
        "ranks 0, 1, 3 wait in the step"
    )


def test_a_trainer_that_is_batches_behind_is_named_even_where_all_are_in_a_call() -> None:
    behind = replace(STEP, batch=4885)
    assert said(STEP, behind, STEP).startswith("rank 1's loader is healthy")


def test_of_several_lines_the_rarer_is_named() -> None:
    rows = [replace(STEP, joined=False)] * 3
    odd = replace(rows[0], place="save.py:12 in save")
    assert judge(seen(*rows, odd), 4, LASTING).holders == (3,)


def test_where_nothing_tells_ranks_apart_none_is_blamed() -> None:
    verdict = judge(seen(STEP, STEP), 2, LASTING)
    assert (verdict.holders, verdict.why) == ((), "")
    assert verdict.said == (
        "ranks 0, 1 have stood in the step for 94 s, at train.py:90 in step; no loader is waited for, and no rank is "
        "behind another"
    )


def test_a_rank_that_has_published_nothing_new_is_silent_and_one_that_never_did_is_absent() -> None:
    stage = judge(seen(replace(STEP, joined=False)), 8, LASTING)
    assert stage.holders == tuple(range(8)), "ranks that load nothing do not hide who stands"
    assert stage.said.startswith("ranks 1, 2, 3, 4, 5, 6, 7 have published nothing yet")
    assert "; rank 0's loader is healthy, 4 batches ready; its trainer has stood at train.py:90" in stage.said
    assert said(STEP, STEP, quiet={1: 40.0}, world=3) == (
        "rank 1 has published nothing for 40 s: it is stopped, gone or cut off (last seen: train, epoch 3, batch 4,886 "
        "of 10,000: has a batch for 94 s at train.py:90 in step, 4 batches ready); rank 2 has published nothing yet: no "
        "epoch begun there, or the store is out of reach; rank 0 waits in the step"
    )


def test_who_left_is_named_only_where_others_stand() -> None:
    left = replace(STEP, state="left", since=30.0)
    assert said(STEP, left) == "rank 1 left the group 30 s ago, after batch 4,886 of train; rank 0 waits in the step"
    assert said(left, left) == ""
    assert said(replace(STEP, since=1.0), left) == ""


def test_ranks_on_several_machines_are_told_with_their_machine() -> None:
    assert said(STEP, replace(WAITS, host="node-2")).startswith("rank 1 on node-2 waits for batch")


def test_a_rank_between_epochs_while_others_step_is_named() -> None:
    over = replace(STEP, state="between", batch=4887, place="eval.py:5 in main", joined=False)
    assert said(STEP, over).startswith(
        "rank 1 asks for no batch: epoch 3 of train is over for it, and it has stood at eval.py:5"
    )


def test_of_many_only_the_worst_are_told_one_by_one() -> None:
    rows = [replace(WAITS, since=100.0 + rank) for rank in range(9_000)] + [STEP] * 1_000
    verdict = judge(seen(*rows), 10_000, LASTING)
    assert len(verdict.said) < 600
    assert verdict.said.startswith("rank 8,999 waits")
    assert verdict.said.endswith("; 8,997 more ranks wait for data, too; ranks 9,000 to 9,999 wait in the step")


states = st.sampled_from(["waits", "steps", "between", "idle", "left"])
rows_of = st.builds(
    RankStatus, st.just(0), st.integers(1, 99), st.just(5.0), states, st.floats(0, 500), st.sampled_from(["a", "b"]),
    loader=st.sampled_from(["train", "val"]), epoch=st.integers(0, 2), batch=st.integers(0, 5),
    place=st.sampled_from(["", "x.py:1 in f", "y.py:2 in g"]), joined=st.booleans(), workers=st.integers(0, 2),
    sample=st.none() | st.integers(0, 9) | st.text(max_size=5), worker=st.none() | st.integers(0, 3),
)  # fmt: skip


@given(rows=st.dictionaries(st.integers(0, 5), st.tuples(rows_of, st.floats(0, 100)), max_size=6))
@CALMLY
def test_whatever_ranks_say_the_verdict_is_one_line_that_names_whom_it_blames(
    rows: dict[int, tuple[RankStatus, float]],
) -> None:
    told = {rank: Sighting(replace(row, rank=rank), quiet) for rank, (row, quiet) in rows.items()}
    verdict = judge(told, 6, LASTING)
    assert "\n" not in verdict.said
    assert verdict == judge(dict(reversed(told.items())), 6, LASTING), "the order of arrival does not matter"
    assert bool(verdict.why) == bool(verdict.holders)
    absent = [rank for rank in range(6) if rank not in told]
    silent = [r for r, one in told.items() if one.row.state != "left" and one.quiet >= silent_after(5.0)]
    assert set(absent + silent) <= set(verdict.holders), "who is not heard of is always named"
    waiting = [r for r, one in told.items() if r not in silent and one.row.state == "waits" and one.stands >= LASTING]
    assert set(waiting) <= set(verdict.holders)
    moving = [
        r
        for r, one in told.items()
        if r not in silent and one.row.state not in ("left", "idle") and one.stands < LASTING
    ]
    assert not set(moving) & set(verdict.holders), "who moves holds nobody"
    assert verdict.moving == len(moving)
    for rank in verdict.holders[:1]:
        assert len(verdict.holders) > 3 or f"{rank}" in verdict.said


@given(data=st.data())
@CALMLY
def test_one_rank_that_waits_is_found_wherever_the_others_stand(data: st.DataObject) -> None:
    world = data.draw(st.integers(2, 8))
    culprit = data.draw(st.integers(0, world - 1))
    others = st.sampled_from([STEP, replace(STEP, joined=False, place="z.py:1 in h"), replace(STEP, since=2.0)])
    rows = [WAITS if rank == culprit else data.draw(others) for rank in range(world)]
    assert judge(seen(*rows), world, LASTING).holders == (culprit,)


# ---------------------------------------------------------------- words and wire


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([3], "rank 3"),
        ([2, 0, 1], "ranks 0, 1, 2"),
        ([*range(12), *range(13, 10_000)], "ranks 0 to 11, 13 to 9,999"),
        (range(0, 1000, 2), "500 ranks"),
    ],
)
def test_ranks_are_named_shortly(ranks: Any, words: str) -> None:
    assert named(ranks) == words


anything = st.text(max_size=300)
numbers = st.integers(0, 2**63)


any_row = st.builds(
    RankStatus, numbers, numbers, st.floats(0, 1e9), states, st.floats(0, 1e9), anything, numbers, anything, numbers, numbers,
    st.none() | numbers, numbers, anything, st.booleans(), st.none() | numbers,
    st.none() | anything | st.integers(-(10**400), 10**400), st.floats(0, 1e9), anything, numbers, numbers, numbers,
)  # fmt: skip


@given(row=any_row)
@CALMLY
def test_any_row_fits_on_the_wire_and_comes_back(row: RankStatus) -> None:
    wire = encode(row)
    assert len(wire) <= MOST_BYTES
    back = decode(wire)
    assert back is not None
    assert (back.rank, back.count, back.state, back.batch, back.joined) == (
        row.rank,
        row.count,
        row.state,
        row.batch,
        row.joined,
    )
    assert encode(back) == wire, "what was cut once is cut no further"


@given(st.binary(max_size=60))
@CALMLY
def test_what_is_no_row_is_none(wire: bytes) -> None:
    assert decode(wire) is None


@pytest.mark.parametrize("depth", [500, 1_000, 100_000])
def test_a_deeply_nested_value_is_no_row(depth: int) -> None:
    assert decode(b"[" * depth) is None
    assert decode(b"[" * depth + b"]" * depth) is None
    assert decode(b'{"a":' * depth) is None


@pytest.mark.parametrize(
    "change",
    [
        {"count": 10**300},
        {"since": float("inf")},
        {"state": "dances"},
        {"batch": -1},
        {"worker": "x"},
        {"joined": 1},
        {"place": None},
        {"since": float("nan")},
    ],
)
def test_a_row_with_a_wrong_value_is_none(change: dict[str, Any]) -> None:
    import json

    values = json.loads(encode(STEP))
    names = list(RankStatus.__dataclass_fields__)
    for name, value in change.items():
        values[1 + names.index(name)] = value
    assert decode(json.dumps(values).encode()) is None
    assert decode(json.dumps([2, *json.loads(encode(STEP))[1:]]).encode()) is None, "another version"


def test_a_typical_row_is_small() -> None:
    assert len(encode(WAITS)) < 200


def test_of_several_loaders_the_one_that_waits_is_told_of() -> None:
    common = {"epoch": 0, "length": None, "faults": 2, "processes": 1, "workers": 2}
    due = {
        "ready": 0,
        "epoch": 0,
        "batch": 5,
        "worker": 1,
        "process": 9,
        "sample": 17,
        "seconds": 3.0,
        "doing": "words",
    }
    train = {"name": "train", "batch": 8, "busy": True, "waiting": False, "since": 4.0, "due": None, **common}
    val = {"name": "val", "batch": 5, "busy": True, "waiting": True, "since": 3.5, "due": due, **common}
    row = status_of({"pid": 1, "loaders": [train, val]}, rank=2, count=1, every=5.0, host="h")
    assert (row.loader, row.state, row.batch, row.worker, row.sample, row.working) == ("val", "waits", 5, 1, 17, 3.0)
    row = status_of({"pid": 1, "loaders": [train]}, rank=2, count=1, every=5.0, host="h")
    assert (row.loader, row.state, row.batch, row.faults) == ("train", "steps", 7, 2)
    assert status_of({"pid": 1, "loaders": []}, rank=2, count=1, every=5.0, host="h").state == "idle"
