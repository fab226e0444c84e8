"""Two real ranks decide the same, and resume from the same checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from safeloader.training import CheckpointError, CheckpointStore, resume
from safeloader.training.collectives import all_do, any_rank, everyones, first_does, rank, world_size
from tests.programs import run_torchrun


def _run(folder: Path) -> list[str]:
    code, out, err = run_torchrun("-m", "tests.training.two_ranks", str(folder), ranks=2, seconds=150)
    assert code == 0, out + err
    return out.splitlines()


@pytest.mark.timeout(170)
def test_two_ranks_decide_the_same_and_resume_from_the_same_checkpoint(tmp_path: Path) -> None:
    said = _run(tmp_path)
    saved = next(line for line in said if line.startswith("saved"))
    assert said == [
        "skip 0 [True, True, False, True] 1",
        "the same weights 6 True",
        "finite True",
        "skip 1 [True, True, False, True] 1",
        "the same weights 6 True",
        "finite True",
        "raise True step 1",
        "raise one step later True step 1 3",
        "weights of one rank end all True",
        "each rank looks at its part of a sharded model [True, True, True, True] True",
        saved,
        "resumed True",
        "own state True True",
        "past the damaged 1 True ['two.000002.step2.ckpt']",
        "all refuse True",
        "all refuse True",
        "all refuse True",
        "a sharded model is refused True",
        "its whole state is saved and put back True",
        "the older one is untouched True",
        "a folder that only rank 0 sees is refused by all",
    ]
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    store = CheckpointStore(tmp_path, run="two")
    with pytest.raises(CheckpointError, match="saved by 2 ranks, and 1 resume"):
        resume(store, model=model)
    assert resume(store, model=model, other_world_size=True).step == 1


def test_one_rank_alone_is_the_obvious_thing() -> None:
    assert not torch.distributed.is_initialized()
    assert (rank(), world_size(), any_rank(True), any_rank(False), everyones(3)) == (0, 1, True, False, [3])
    assert first_does(lambda: 4) == all_do(lambda: 4) == 4
