"""``python -m benchmarks.scaling``: what the board and the sampler cost, up to 10,000 ranks and 10**9 samples."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.scaling import sampler, traffic

if TYPE_CHECKING:
    from benchmarks.scaling.sampler import Cost
    from benchmarks.scaling.traffic import Load

WORLDS = (8, 100, 1000, 10_000)
SAMPLES = (10**6, 10**7, 10**9)
TORCH_UP_TO = 10**7


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--only", choices=("board", "sampler"))
    parser.add_argument("--ranks", type=int, help="the largest group (10,000)", default=WORLDS[-1])
    parser.add_argument("--samples", type=int, help="the largest dataset (10**9)", default=SAMPLES[-1])
    asked = parser.parse_args()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 150
    if asked.only != "sampler":
        worlds = sorted({world for world in WORLDS if world < asked.ranks} | {asked.ranks})
        console.print(_board([traffic.measure(world) for world in worlds]))
    if asked.only != "board":
        lengths = sorted({length for length in SAMPLES if length < asked.samples} | {asked.samples})
        costs = [sampler.measure(length, asked.ranks) for length in lengths]
        costs += [sampler.measure_torch(length, asked.ranks) for length in lengths if length <= TORCH_UP_TO]
        console.print(_samplers(costs))
        total = sampler.distinct(asked.samples, asked.ranks)
        console.print(f"{asked.ranks:,} ranks' first batches of {asked.samples:,} samples: {total:,}, each once")


def _board(loads: list[Load]) -> Table:
    columns = (
        "ranks", "s between rows", "rows a second", "B a visit", "kB a second", "store, of a core", "reading all: kB",
        "s", "s, 1 % missing", "judging: s",
    )  # fmt: skip
    table = Table(*columns, title="the board on the store", title_justify="left")
    for load in loads:
        table.add_row(
            f"{load.world:,}", f"{load.every:.0f}", f"{load.rows:.3g}", f"{load.visit_bytes:.0f}",
            f"{load.bytes_a_second / 1e3:.3g}", f"{load.store_share:.2%}", f"{load.reading_bytes / 1e3:,.1f}",
            f"{load.reading_seconds:.3g}", f"{load.missing_seconds:.3g}", f"{load.judging_seconds:.3g}",
        )  # fmt: skip
    return table


def _samplers(costs: list[Cost]) -> Table:
    columns = ("sampler", "samples", "ranks", "first index: s", "peak memory", "µs an index", "state: B", "resume: s")
    table = Table(*columns, title="one rank's sampler", title_justify="left")
    for cost in costs:
        table.add_row(
            cost.name, f"{cost.samples:,}", f"{cost.ranks:,}", f"{cost.first_seconds:.3g}",
            f"{cost.peak_bytes / 1e6:,.3g} MB", f"{cost.index_seconds * 1e6:.3g}" if cost.index_seconds else "-",
            "-" if cost.state_bytes is None else str(cost.state_bytes),
            "-" if cost.resume_seconds is None else f"{cost.resume_seconds:.3g}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
