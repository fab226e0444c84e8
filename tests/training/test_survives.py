"""Saving survives SIGKILL at any instant, and a full disk: the older good checkpoint is there, and the newest is whole."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from safeloader.training import CheckpointError, CheckpointStore, resume
from tests.programs import run


def _kill(folder: Path, kills: int, seed: int, limit: float) -> dict[str, int]:
    done = run("-m", "tests.training.killing", str(folder), str(kills), str(seed), seconds=limit)
    assert done.code == 0, done.out + done.err
    told: dict[str, int] = json.loads(done.out.splitlines()[-1])
    return told


def test_a_writer_that_is_killed_again_and_again_leaves_whole_checkpoints(tmp_path: Path) -> None:
    told = _kill(tmp_path, 40, seed=1, limit=100)
    assert told["saved"] > 0 and told["cut short"] > 0, "no kill came in the middle of a save"


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_a_writer_that_is_killed_a_thousand_times_leaves_whole_checkpoints(tmp_path: Path) -> None:
    told = _kill(tmp_path, 1000, seed=2, limit=1100)
    print(told)
    assert told["saved"] > 100 and told["cut short"] > 100


# ---------------------------------------------------------------- no space


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _save_until_full(store: CheckpointStore) -> int:
    step = 1
    with pytest.raises(CheckpointError, match="No space left on device; the older ones are untouched") as caught:  # noqa: PT012
        while step < 100:
            store.save(step, model=nn.Linear(200, 200))
            step += 1
    assert "make room" in caught.value.hint and "MB are free" in caught.value.hint
    return step - 1


def test_on_a_full_disk_the_older_checkpoints_stay_and_the_error_says_so(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, run="a", keep_last=100)
    saved = _save_until_full(store)
    assert saved >= 2
    assert sorted(path.name for path in small_disk.iterdir()) == [
        f"a.{n:06d}.step{n}.ckpt" for n in range(1, saved + 1)
    ]
    found = store.latest_good()
    assert found is not None and found.step == saved and not store.passed_over
    store.checkpoints()[-1].path.unlink()
    store.save(100, model=nn.Linear(200, 200))
    assert store.checkpoints()[0].step == 100, "with room again, it goes on"


def test_each_place_in_a_file_at_which_the_disk_can_be_full_is_the_same_clear_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, run="a")
    model = nn.Linear(100, 100)
    good = store.save(1, model=model)
    size = good.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 100, 4096, size // 2, size - 1000, size - 100, size - 89, size - 60, size - 30):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(CheckpointError, match="File too large"):
                store.save(2, model=model)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path) == [good.path.name], limit
        assert store.latest_good() == good
    assert store.save(2, model=model).path.stat().st_size <= size + 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, run="a")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            store.save(1, model=nn.Linear(1, 1))
    finally:
        tmp_path.chmod(0o700)


def test_a_file_of_a_living_writer_is_not_swept_away(tmp_path: Path) -> None:
    import fcntl

    alive, dead = tmp_path / ".a.000002.step2.ckpt.77-ab.tmp", tmp_path / ".a.000001.step1.ckpt.76-ab.tmp"
    others = tmp_path / ".b.000001.step1.ckpt.76-ab.tmp"
    dead.write_bytes(b"half")
    others.write_bytes(b"half")
    with alive.open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        store = CheckpointStore(tmp_path, run="a")
        assert alive.exists() and others.exists() and not dead.exists()
    assert not resume(store, model=torch.nn.Linear(1, 1))
