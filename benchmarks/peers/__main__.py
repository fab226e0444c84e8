"""``python -m benchmarks.peers``: all peers, in turns; the tables go to RESULTS.md."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from benchmarks.peers import data
from benchmarks.peers.adapters import IN_PROCESS, OF_ARRAYS, PEERS
from benchmarks.speed.stats import Spread
from safeloader.bisecting import processes

if TYPE_CHECKING:
    from collections.abc import Callable

_MARK = "BENCH_PEERS_FOLDER"  # in the environment of all processes of a run
_ROOT = Path(__file__).resolve().parents[2]
_BASE = "torch, spawn"
_START = 300.0
"""Seconds that a peer may take to start its workers, or to load an epoch whose speed is measured."""
_HEAD = """# Peers

Written by `make bench-peers`; not edited by hand. Two workers each, with its own defaults.
"""
_FAULTS = """## A fault strikes one worker at sample {at}; {due} batches are due

How many batches the training loop got, and the longest wait for one. Hangs: none for {cap:.0f} s. safeloader has
`batch_timeout=5` (120 by default), which decides how soon it acts on a hang; torch's `timeout` makes an error of one.
"""
_SPEEDS = """## Ready arrays: batches a second over torch's with spawn

Samples are there already, so the loader is what takes time. Medians of {rounds} rounds (least to greatest), each peer
once in a round, in random order. After the semicolon: processor time of all processes, over torch's.
"""


class Ran(NamedTuple):
    """What a program told, when each line came, and how it ended: its exit status, or None if it stood still."""

    told: list[dict[str, Any]]
    status: int | None
    last: str


def run(arguments: list[str], cap: float) -> Ran:
    """Run a program of one peer; it stands still when it tells nothing for ``cap`` seconds after the first word."""
    temporary = tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True)
    with temporary as folder, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.program", *(part.replace("FOLDER", folder) for part in arguments)],
            stdout=subprocess.PIPE, stderr=err, cwd=_ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT), _MARK: folder},
        )  # fmt: skip
        lines: queue.Queue[bytes] = queue.Queue()
        reader = threading.Thread(target=_pass_on, args=(child.stdout, lines), daemon=True)
        reader.start()
        threading.Thread(target=_end, args=(child, reader, lines), daemon=True).start()
        told: list[dict[str, Any]] = []
        status: int | None = None
        try:
            while line := lines.get(timeout=cap if told else _START):
                told.extend([json.loads(line)] if line.startswith(b"{") else [])
            status = child.wait(cap)
        except (queue.Empty, subprocess.TimeoutExpired):
            pass
        finally:
            processes.kill_all(child, lambda: processes.members(_MARK, folder))
            reader.join(10)
        err.seek(0)
        words = err.read().decode(errors="replace").strip().splitlines()
        return Ran(told, status, words[-1] if words else "")


def _pass_on(source: Any, lines: queue.Queue[bytes]) -> None:
    with source:
        for line in source:
            lines.put(line)
    lines.put(b"")


def _end(child: subprocess.Popen[bytes], reader: threading.Thread, lines: queue.Queue[bytes]) -> None:
    """It is over when the program has ended: workers that it left behind may hold its output open."""
    child.wait()
    reader.join(1)
    lines.put(b"")


def speeds(names: list[str], kinds: list[str], rounds: int, cap: float) -> list[str]:
    """A table of batches a second, as ratios to torch's in the same round."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(rounds):
        for kind in kinds:
            order = random.Random(number).sample(names, len(names))
            results = {name: _speed(name, kind, cap) for name in order}
            base = results.get(_BASE)
            for name, result in results.items():
                if result is not None and base is not None:
                    found.setdefault((name, kind), []).append((result[0] / base[0], result[1] / base[1]))
    lines = ["| | " + " | ".join(data.WORKLOADS[kind].title for kind in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name in names:
        cells = [_cell(found.get((name, kind), [])) for kind in kinds]
        lines.append(f"| {_bold(name)} | " + " | ".join(cells) + " |")
    return lines


def _speed(name: str, kind: str, cap: float) -> tuple[float, float] | None:
    ran = run([name, "speed", kind], cap)
    _tell(name, kind, ran.told or ran.last)
    result = next((told for told in ran.told if "rate" in told), None)
    return None if result is None else (result["rate"], result["cpu"])


def _cell(pairs: list[tuple[float, float]]) -> str:
    if not pairs:
        return "-"
    rate, cpu = Spread.of([pair[0] for pair in pairs]), Spread.of([pair[1] for pair in pairs])
    return f"{rate.text(1)}; {cpu.median:.2f}"


def faults(names: list[str], cap: float) -> list[str]:
    """A table of what comes of each fault."""
    whole = [told["digest"] for told in run([_BASE, "fault", "", "FOLDER"], cap).told if "digest" in told]
    if len(whole) != data.Struck.length // 4:
        raise SystemExit(f"{_BASE} did not finish undisturbed")
    lines = ["| | " + " | ".join(data.FAULTS) + " |", "|---" * (len(data.FAULTS) + 1) + "|"]
    for name in names:
        cells = []
        for fault in data.FAULTS:
            ran = run([name, "fault", fault, "FOLDER"], cap)
            cells.append(_verdict(ran, whole))
            _tell(name, fault, (cells[-1], ran.last))
        lines.append(f"| {_bold(name)} | " + " | ".join(cells) + " |")
    return lines


def _verdict(ran: Ran, whole: list[str]) -> str:
    digests = [told["digest"] for told in ran.told if "digest" in told]
    times = [told["at"] for told in ran.told if "at" in told]
    gap = max((after - before for before, after in itertools.pairwise(times)), default=0.0)
    count = len(digests)
    if not any("over" in told for told in ran.told):
        return f"hangs, {count}" if ran.status is None else f"error, {count}"
    if digests == whole:
        return f"**{count}, bytes equal**, {gap:.1f} s"
    if sorted(digests) == sorted(whole):
        return f"{count}, in another order, {gap:.1f} s"
    return f"ends as if whole, {count}" if count < len(whole) else f"{count}, other bytes"


def _bold(name: str) -> str:
    return f"**{name}**" if name.startswith("safeloader") else name


def _tell(*what: Any) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {' · '.join(map(str, what))}\n")


def main() -> None:
    """Measure what the command line names, and write the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("--peers", default=";".join(PEERS), help="separated by semicolons")
    parser.add_argument("--workloads", default=",".join(data.WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cap", type=float, default=40.0, help="seconds without a batch after which a peer hangs")
    parser.add_argument("--only", choices=["speeds", "faults"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    names, parts = given.peers.split(";"), {}
    if given.only != "speeds":
        head = _FAULTS.format(at=data.Struck.at, due=data.Struck.length // 4, cap=given.cap)
        parts[0] = _part(head, lambda: faults([name for name in names if name not in IN_PROCESS], given.cap))
    if given.only != "faults":
        kinds, those = given.workloads.split(","), [name for name in names if name not in OF_ARRAYS]
        head = _SPEEDS.format(rounds=given.rounds)
        parts[1] = _part(head, lambda: speeds(those, kinds, given.rounds, given.cap))
    given.out.write_text("\n".join([_HEAD, *_with_others(parts, given.out)]))


def _part(head: str, measured: Callable[[], list[str]]) -> str:
    """A part of the page, with the state of the machine while it was measured."""
    before = os.getloadavg()[0]
    table = measured()
    load = f"{before:.1f} before and {os.getloadavg()[0]:.1f} after"
    machine = f"Cores {os.cpu_count()}, load {load}, Python {platform.python_version()}, torch {torch.__version__}."
    return "\n".join([head, *table, "", machine, ""])


def _with_others(parts: dict[int, str], path: Path) -> list[str]:
    """The parts in order, those that were not measured now as they are on the page."""
    kept = path.read_text().split("\n## ")[1:] if path.exists() else []
    for text in kept:
        parts.setdefault(0 if text.startswith("A fault") else 1, f"## {text}")
    return [text for _, text in sorted(parts.items())]


if __name__ == "__main__":
    main()
