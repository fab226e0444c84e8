"""Lightning's and Accelerate's own checkpoints of several ranks, in mid-epoch: each rank goes on where it stood."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from safeloader import DataLoader, StateError
from safeloader.distributed import ElasticDistributedSampler
from safeloader.resume import distributed_checkpoint, joint_checkpoint
from tests.programs import run_torchrun


@pytest.mark.timeout(300)
@pytest.mark.parametrize("framework", ["accelerate", pytest.param("lightning", marks=pytest.mark.slow)])
def test_two_ranks_go_on_in_mid_epoch_to_the_byte(framework: str, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    code, out, err = run_torchrun(
        "-m", "tests.distributed.framework_ranks", str(tmp_path), framework, ranks=2, seconds=280,
        SAFELOADER_START_METHOD="forkserver",
    )  # fmt: skip
    assert code == 0, out + err[-3000:]
    ranks = [json.loads((tmp_path / f"{framework}-{rank}.json").read_text()) for rank in range(2)]
    for straight, rest in ranks:
        assert rest == straight[3:]
        assert rest != []
    assert ranks[0] != ranks[1]


def test_a_rank_that_does_not_come_is_named_and_the_others_states_are_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch.testing._internal.distributed.fake_pg  # noqa: F401 - a group of one process

    monkeypatch.setattr(joint_checkpoint, "_PATIENCE", 0.1)
    dist.init_process_group("fake", store=dist.HashStore(), rank=1, world_size=2)
    try:
        assert not joint_checkpoint.is_written()
        with caplog.at_level(logging.WARNING, "safeloader"):
            told = joint_checkpoint.leaves({"epoch": 3}, "alone here")
    finally:
        dist.destroy_process_group()
    assert list(told) == ["rank 1 of 2"]
    assert "lacks the place in the data of 1 of 2 ranks" in caplog.text


def test_of_several_ranks_leaves_each_takes_its_own_or_one_of_an_elastic_sampler_s() -> None:
    sampler = ElasticDistributedSampler(range(32), 1, 0, batch_size=4)
    with DataLoader(torch.arange(32), batch_sampler=sampler) as loader:
        batches = iter(loader)
        next(batches)
        (data,) = distributed_checkpoint.leaf(loader.state_dict()).values()
        rest = [batch.tolist() for batch in batches]
        for names in (["rank 0 of 1"], ["rank 0 of 2", "rank 1 of 2"]):
            loader.load_state_dict(dict.fromkeys(names, data))  # type: ignore[arg-type]
            assert [batch.tolist() for batch in loader] == rest
        with pytest.raises(StateError, match="rank 0 of 2 is damaged"):
            loader.load_state_dict({"rank 0 of 2": data[:-1] + b"!", "rank 1 of 2": data})  # type: ignore[dict-item]
