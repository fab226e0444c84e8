"""One rank's loader is killed, hangs, is stopped, falls back and returns: no other rank need know, to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.programs import run_torchrun

KILLED, HUNG, STOPPED = (
    "kill:worker=0,epoch=0,batch=2",
    "hang:worker=1,epoch=0,batch=3",
    "stop:worker=0,epoch=1,batch=2",
)
FALLEN = "kill:epoch=0,batch=1; kill:epoch=0,batch=2; exit:epoch=0,batch=3"


def _train(ranks: int, *plans: str) -> dict[str, Any]:
    code, out, err = run_torchrun("-m", "tests.distributed.disturbed_ranks", *plans, ranks=ranks, seconds=280)
    assert code == 0, err
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert list(said) == ["", *plans]
    return said


def _assert_the_others_saw_only_time(said: dict[str, Any]) -> None:
    calm = said[""]["weights"][0]
    for run in said.values():
        assert set(run["weights"]) == {calm}
        assert all(not report["causes"] for report in run["reports"][:-1])


@pytest.mark.timeout(300)
def test_a_rank_recovers_alone_and_all_ranks_end_with_the_weights_of_an_undisturbed_run() -> None:
    plans = (f"{KILLED}; {HUNG}", STOPPED, FALLEN)
    said = _train(2, *plans)
    _assert_the_others_saw_only_time(said)
    assert said[plans[0]]["reports"][1]["causes"] == {"died": 1, "hung": 1}
    assert said[STOPPED]["reports"][1]["causes"] == {"stopped": 1}
    fallen = said[FALLEN]["reports"][1]
    assert fallen["causes"] == {"died": 3}
    assert fallen["fallbacks"] >= 1 <= fallen["recoveries"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_so_do_four_ranks() -> None:
    plans = (KILLED, HUNG, STOPPED, FALLEN, "oom:batch=4,megabytes=8; kill:epoch=1,batch=0")
    _assert_the_others_saw_only_time(_train(4, *plans))
