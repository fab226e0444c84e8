"""The speed benchmarks measure what they say."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed import memory, syscalls
from benchmarks.speed.stats import Spread

ROOT = Path(__file__).resolve().parents[2]


def test_a_ratio_is_taken_pair_by_pair_and_not_between_medians() -> None:
    ratio = Spread.of_ratios([2.0, 40.0, 6.0], [1.0, 10.0, 2.0])
    assert (ratio.median, ratio.low, ratio.high, ratio.n) == (3.0, 2.0, 4.0, 3)


def test_the_spread_of_one_value_shows_no_range() -> None:
    assert Spread.of([1234.5]).text(1) == "1,234.5"
    assert Spread.of([1.0, 2.0, 4.0]).text(1, "×") == "2.0× (1.0 to 4.0)"


def test_memory_that_a_process_holds_open_but_does_not_map_is_counted() -> None:
    size = 64 * 2**20
    before = sum(memory.occupied([os.getpid()]))
    held = os.memfd_create("held")
    try:
        for _ in range(64):
            os.write(held, bytes(2**20))
        unmapped = sum(memory.occupied([os.getpid()]))
        assert size * 0.9 < unmapped - before < size * 1.3
        with mmap.mmap(held, size) as view:
            for page in range(0, size, mmap.PAGESIZE):
                view[page]
            mapped = sum(memory.occupied([os.getpid()]))
        assert abs(mapped - unmapped) < size * 0.2, "memory that is held open and mapped is counted once"
    finally:
        os.close(held)


def test_the_table_of_strace_is_read() -> None:
    table = "syscall  calls\n-------- ---------\nfutex  15480\nread  8002\n-------- ---------\ntotal  23482\n"
    assert syscalls._read(table) == {"futex": 15480, "read": 8002}


def test_a_quick_run_writes_its_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "--only", "inline", "--quick", "--repeats", "1"]
    subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=100)
    (table,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tables"]
    assert [len(row["rates"]) for row in table["raw"]] == [2, 2]
    assert "num_workers=0" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def test_an_unknown_group_is_refused_with_the_names_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "--only", "sped"]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "throughput" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["torch", "safeloader"])
def test_an_exit_with_stuck_workers_is_measured(loader: str) -> None:
    command = [sys.executable, "-m", "benchmarks.speed.exits", loader, "--workers", "2"]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=100)
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["stuck"] == 2
    assert result["seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["torch", "safeloader"])
def test_a_killed_worker_is_measured(loader: str) -> None:
    command = [sys.executable, "-m", "benchmarks.speed.faults", loader, "kill"]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["noticed"] is not None
    assert (result["outcome"] == "finished") == (loader == "safeloader")
    assert (result["batches"] == result["due"]) == (loader == "safeloader")
