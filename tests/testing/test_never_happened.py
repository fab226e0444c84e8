"""A fault on purpose that never happened is named when the program ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs import run

CHAOS = """
import sys, torch
from safeloader import DataLoader
for _ in DataLoader(torch.utils.data.TensorDataset(torch.arange(96.0)), batch_size=4, num_workers=int(sys.argv[1])):
    pass
"""


@pytest.mark.parametrize(
    ("plan", "workers", "expected"),
    [
        (
            "kill:worker=1,batch=12; slow:batch=3,seconds=0.1; kill:worker=7; slow:sample=5000",
            "2",
            (
                "kill:worker=1,batch=12 (batch 12 is loaded by worker 0 of 2); kill:worker=7 (no loader had a worker 7); "
                "slow:sample=5000 [SL111]"
            ),
        ),
        ("kill:batch=1", "0", "kill:batch=1 (no loader had worker processes: num_workers=0) [SL111]"),
    ],
)
def test_chaos_that_never_happened_says_so_at_the_end(plan: str, workers: str, expected: str) -> None:
    done = run("-c", CHAOS, workers, SAFELOADER_CHAOS=plan, SAFELOADER_START_METHOD="forkserver")
    assert done.code == 0, done.err
    told = [line.partition("never happened: ")[2] for line in done.err.splitlines() if "[SL111]" in line]
    assert told == [expected]


def test_the_documented_plan_happens() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "chaos.md").read_text(encoding="utf-8")
    plan = re.search(r'SAFELOADER_CHAOS="(.*?)"', page)
    assert plan is not None
    for workers in ("3",):
        done = run(
            "-c",
            CHAOS,
            workers,
            SAFELOADER_CHAOS=plan[1],
            SAFELOADER_BATCH_TIMEOUT="3",
            SAFELOADER_START_METHOD="forkserver",
        )
        assert done.code == 0 and "[SL001]" in done.err and "[SL003]" in done.err, done.err
        assert "[SL111]" not in done.err
