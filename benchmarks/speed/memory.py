"""Physical memory of a trainer and its workers whose dataset holds a large array, or a long list of strings.

PSS, the kernel's own count, divides a shared page among the processes that map it, so the sum over all
processes is what they occupy together. Shared memory that a process holds open but does not map is in no PSS;
it is added, so that no loader looks small by hiding its batches.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
from pathlib import Path

import psutil
import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.workloads import BigArray, BigList


def occupied(pids: list[int]) -> tuple[int, int]:
    """What some processes occupy together.

    Args:
        pids: The processes.

    Returns:
        Bytes of PSS, and bytes of shared memory that they hold open beyond what PSS counts.
    """
    pss = shared_pss = 0
    held: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            roll = _rollup(pid)
            pss += roll["Pss"]
            shared_pss += roll.get("Pss_Shmem", 0)
            held |= _open_shared_memory(pid)
        except (OSError, KeyError):  # it ended while it was looked at
            continue
    return pss, max(0, sum(held.values()) - shared_pss)


def _rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _open_shared_memory(pid: int) -> dict[tuple[int, int], int]:
    """Bytes in each shared-memory file behind the descriptors of a process, by device and inode."""
    held = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
            if target.startswith(("/memfd:", "/dev/shm/")):
                status = entry.stat()
                held[(status.st_dev, status.st_ino)] = status.st_blocks * 512
        except OSError:
            continue
    return held


class Watch:
    """Samples the memory of a program and all its descendants until it is stopped."""

    def __init__(self, pid: int, every: float = 0.1) -> None:
        self.program = psutil.Process(pid)
        self.every = every
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def now(self) -> tuple[int, int, int]:
        """Bytes of PSS, bytes of other shared memory, and the number of processes, at this moment."""
        pids = [self.program.pid, *(p.pid for p in self.program.children(recursive=True))]
        return *occupied(pids), len(pids)

    def stop(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self.every):
            try:
                self.peak = max(self.peak, sum(self.now()[:2]))
            except psutil.NoSuchProcess:
                return


def weigh(
    loader: str, megabytes: int, workers: int, limit: float, module: str = "memory", options: tuple[object, ...] = ()
) -> child.Result:
    """Measure the memory of a trainer in mid-epoch and at its peak.

    Args:
        loader: "torch" or "safeloader".
        megabytes: Size of the array in the dataset.
        workers: Worker processes.
        limit: Seconds for the whole program.
        module: The measured program.
        options: More of its command line.

    Returns:
        ``pss``, ``unmapped``, ``total`` and ``peak`` in bytes, ``processes``; or ``{"error": why}``.
    """
    program = child.start(module, loader, "--megabytes", megabytes, "--workers", workers, "--limit", limit, *options)
    watch = Watch(program.pid)
    try:
        assert program.stdout is not None
        if not program.stdout.readline():
            watch.stop()
            out, err = program.communicate(timeout=limit)
            return child.parse(out, err, program.returncode)
        pss, unmapped, processes = watch.now()
        return {
            "pss": pss,
            "unmapped": unmapped,
            "total": pss + unmapped,
            "peak": max(watch.peak, pss + unmapped),
            "processes": processes,
        }
    except (subprocess.TimeoutExpired, psutil.NoSuchProcess) as problem:
        return {"error": str(problem)}
    finally:
        watch.stop()
        child.end(program)


def main() -> None:
    """Be the measured program: one whole epoch, then half of another, then wait."""
    import signal

    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--placed", action="store_true", help="the array lies in a memory file")
    parser.add_argument("--strings", type=int, default=0, help="a list of so many, in place of an array")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--limit", type=float, default=120)
    asked = parser.parse_args()
    signal.alarm(int(asked.limit))
    torch.set_num_threads(1)
    dataset = BigList(3000, asked.strings) if asked.strings else BigArray(3000, asked.megabytes)
    if asked.placed and isinstance(dataset, BigArray) and asked.loader.startswith("safeloader"):
        import safeloader

        dataset.array = safeloader.carry.to_memory_file(dataset.array)
    loader = loaders.build(asked.loader, dataset, batch_size=10, num_workers=asked.workers)
    for _ in loader:
        pass
    iterator = iter(loader)
    for _ in range(150):
        next(iterator)
    child.tell(at="mid-epoch")
    child.wait_for_word()


if __name__ == "__main__":
    main()
