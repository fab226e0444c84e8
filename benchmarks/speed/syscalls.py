"""The trainer's system calls per batch, counted from outside while an epoch is in full flow.

The measured program loads some batches, says so, and waits; strace is attached to all its threads (not to the
workers); the program loads ``batches`` more, says so, and waits; strace is detached and its table divided by
the batches.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.workloads import WORKLOADS

# Rule of the design: in the steady state the trainer maps, unmaps, opens and closes nothing per batch.
CHURN = ("mmap", "munmap", "open", "openat", "close")


def count(loader: str, workload: str, batches: int, limit: float) -> child.Result:
    """Count the trainer's system calls.

    Args:
        loader: "torch" or "safeloader".
        workload: Name of a workload.
        batches: Batches to count over.
        limit: Seconds for each stretch of the program.

    Returns:
        ``{"calls": {name: calls per batch}, "batches": batches}``, or ``{"error": why}``.
    """
    strace = shutil.which("strace")
    if strace is None:
        return {"error": "strace is not installed"}
    program = child.start("syscalls", loader, workload, batches)
    try:
        return _count(program, strace, batches, limit)
    except (subprocess.TimeoutExpired, RuntimeError) as problem:
        return {"error": str(problem)}
    finally:
        child.end(program)


def _count(program: subprocess.Popen[str], strace: str, batches: int, limit: float) -> child.Result:
    assert program.stdin is not None
    _hear(program, limit)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table"
        tracer = subprocess.Popen(
            [strace, "-f", "-c", "-U", "name,calls", "-o", str(table), "-p", str(program.pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        try:
            greeting = tracer.stderr.readline()
            if "attached" not in greeting:
                raise RuntimeError(greeting.strip() or "strace could not attach")
            program.stdin.write("go\n")
            program.stdin.flush()
            _hear(program, limit)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(timeout=10)
        calls = _read(table.read_text(encoding="utf-8"))
    return {"batches": batches, "calls": {name: calls[name] / batches for name in calls}}


def _hear(program: subprocess.Popen[str], limit: float) -> None:
    """Wait for a line of the program, which dies after ``limit`` seconds of silence by its own alarm."""
    assert program.stdout is not None
    if not program.stdout.readline():
        err = program.communicate(timeout=limit)[1].strip().splitlines()
        raise RuntimeError(err[-1] if err else f"the program ended (exit code {program.returncode})")


def _read(table: str) -> dict[str, int]:
    rows = re.findall(r"^(\w+)\s+(\d+)$", table, flags=re.MULTILINE)
    return {name: int(calls) for name, calls in rows if name not in ("total", "syscall")}


def main() -> None:
    """Be the measured program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("batches", type=int)
    asked = parser.parse_args()
    signal.alarm(120)
    torch.set_num_threads(1)
    workload = WORKLOADS[asked.workload]
    dataset = workload.dataset()
    warm = 50
    dataset.length = (warm + asked.batches + 50) * workload.batch_size
    loader = loaders.build(asked.loader, dataset, batch_size=workload.batch_size, num_workers=workload.num_workers)
    iterator = iter(loader)
    for _ in range(warm):
        next(iterator)
    child.tell(at="warm")
    child.wait_for_word()
    for _ in range(asked.batches):
        next(iterator)
    child.tell(at="done")
    child.wait_for_word()


if __name__ == "__main__":
    main()
