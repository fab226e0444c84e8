"""FFCV's own ways to hang or lie, bare against wrapped: ``python -m benchmarks.hangs.ffcv``.

Each scenario is a small program under a cap; what it prints last is what came of it. ``bare`` is FFCV's loader as it
is, ``trainer`` and ``process`` are safeloader's two ways.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ffcv.data import pipelines

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve()
COUNT, BATCH = 200, 10
CAP = 90.0  # seconds; a process that is replaced every five batches needs half of them


def operation(act: str) -> Any:
    """An operation on labels that does something at the 57th batch-mate."""
    from ffcv.pipeline.operation import Operation

    class Acts(Operation):  # type: ignore[misc,unused-ignore]
        def generate_code(self) -> Any:
            def acts(labels: Any, _: Any) -> Any:
                if self.seen == 5 and act == "raises":
                    raise ValueError("not liked")
                if self.seen == 5 and act == "stops":
                    next(iter(()))
                if self.seen == 5 and act == "sleeps":
                    time.sleep(3600)
                self.seen += 1
                return labels

            return acts

        def declare_state_and_memory(self, previous_state: Any) -> Any:
            return dataclasses.replace(previous_state, jit_mode=False), None

        seen = 0

    return Acts()


def make(way: str, path: str, act: str) -> Any:
    """The loader under test."""
    given = pipelines(32)
    if act in ("raises", "stops", "sleeps"):
        given["label"].append(operation(act))
    if act == "gpu_order":
        given["image"] = [given["image"][0], *given["image"][3:], given["image"][2]]
    if way == "bare":
        from ffcv.loader import Loader as Bare

        return Bare(path, BATCH, num_workers=1, pipelines=given)
    from safeloader import Policy
    from safeloader.ffcv import Loader

    mode: Any = way
    policy = Policy(ffcv_mode=mode, fallback="off", batch_timeout=4, bad_sample_attempts=1)
    return Loader(path, BATCH, 1, pipelines=given, policy=policy)


def program(way: str, act: str, path: str) -> str:
    """Run a scenario; returns what came of it."""
    loader = make(way, path, act)
    count, kept = 0, []
    if act == "next_after_end":
        iterator = iter(loader)
        count = sum(1 for _ in iterator)
        ended = next(iterator, None) is None
        return f"ended: {ended}, {count} batches"
    if act == "breaks":
        return _breaks(loader)
    for batch in loader:
        count += 1
        kept.append(batch[1])
    if act == "keeps":
        import torch

        expected = torch.cat([batch[1].clone() for batch in loader])
        return f"{int((torch.cat(kept) == expected).sum())} of {COUNT} kept labels right"
    return f"finished: {count} of {COUNT // BATCH} batches"


def _breaks(loader: Any) -> str:
    import gc
    import threading

    next(iter(loader))
    gc.collect()
    before = threading.active_count()
    for _ in range(10):
        for _ in loader:
            break
    time.sleep(1.0)
    gc.collect()
    return f"{threading.active_count() - before} threads more after 10 breaks"


WAYS = ("bare", "trainer", "process")
SCENARIOS = {
    "raises": "an operation raises in batch 5",
    "stops": "an operation raises StopIteration",
    "sleeps": "an operation never returns",
    "gpu_order": "NormalizeImage after ToTensor, on the CPU",
    "next_after_end": "next() once more after the end",
    "breaks": "10 early breaks",
    "keeps": "all batches of an epoch are kept",
    "truncated": "the file is cut off",
    "corrupt": "a corrupt JPEG",
}


def prepare(folder: Path) -> dict[str, str]:
    """A file of photographs, a cut one and a corrupt one."""
    from ffcv.fields import IntField, RGBImageField

    from benchmarks.ffcv.data import Photographs
    from safeloader.ffcv import Beton, write

    whole = folder / "whole.beton"
    photographs = Photographs(COUNT)
    rows = [(photographs[index][0], index) for index in range(COUNT)]
    write(whole, rows, {"image": RGBImageField("jpg"), "label": IntField()}, num_workers=0)
    data = bytearray(whole.read_bytes())
    (folder / "cut.beton").write_bytes(data[:-700])
    row = Beton(whole).rows[57]
    start, size = int(row["ptr"]), int(row["size"])
    data[start + size // 2 : start + size - 2] = bytes(size - 2 - size // 2)
    (folder / "corrupt.beton").write_bytes(data)
    return {"truncated": str(folder / "cut.beton"), "corrupt": str(folder / "corrupt.beton"), "": str(whole)}


def run(way: str, act: str, path: str, cap: float) -> str:
    """One program under a cap: how it ended, in a few words."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.hangs.ffcv", "--program", way, act, path]
    begun = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=cap, check=False)
    except subprocess.TimeoutExpired:
        return f"**hang** ({cap:.0f} s)"
    said = done.stdout.strip().splitlines()
    if said:
        return said[-1]
    if done.returncode < 0:
        return f"**killed** by signal {-done.returncode}"
    errors = [line for line in done.stderr.splitlines() if "Error" in line and not line.startswith((" ", "KeyError:"))]
    told = errors[-1].replace(f"{Path(path).parent}{os.sep}", "")[:90] if errors else done.returncode
    return f"error after {time.monotonic() - begun:.0f} s: {told}"


def table(ways: tuple[str, ...], acts: tuple[str, ...], cap: float, say: Callable[[str], None]) -> list[str]:
    """What came of each scenario in each way, as a table of Markdown. One program a core at a time."""
    lines = [f"| scenario | {' | '.join(ways)} |", "|---|" + "---|" * len(ways)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        files = prepare(Path(folder))
        running = {act: [pool.submit(run, way, act, files.get(act, files[""]), cap) for way in ways] for act in acts}
        for act, came in running.items():
            lines.append(f"| {SCENARIOS[act]} | {' | '.join(one.result() for one in came)} |")
            say(lines[-1])
    return lines


def main() -> None:
    """Run what the command line asks for and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hangs.ffcv", description=__doc__)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--cap", type=float, default=CAP, help="seconds until a program is said to hang")
    parser.add_argument("--program", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.program:
        print(program(*asked.program), flush=True)
        return
    from safeloader.ffcv.require import require

    require()
    print("\n".join(table(tuple(asked.ways.split(",")), tuple(asked.only.split(",")), asked.cap, lambda _: None)))


if __name__ == "__main__":
    main()
