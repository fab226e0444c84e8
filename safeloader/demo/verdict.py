"""What the runs show, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.demo.run import Run

__all__ = ["equal", "sentences"]


def equal(right: Run, safe: Run) -> bool:
    """Whether both finished, with the same batches, weights and generators, to the byte."""
    return right.finished and safe.finished and bool(right.digests) and right.digests == safe.digests


def sentences(runs: Sequence[Run]) -> list[str]:
    """The verdict, for somebody who saw nothing else."""
    right, safe, *others = runs
    said = []
    if equal(right, safe):
        longest = max((b - a for a, b in zip(safe.batches, safe.batches[1:], strict=False)), default=0.0)
        said.append(
            f"safeloader: {len(safe.batches)} of {safe.due} batches through {len(safe.struck)} faults, the longest "
            f"wait {longest:.1f} s. Every batch, the final weights and the random generators EQUAL those of the "
            f"undisturbed run, to the byte (weights: SHA-256 {safe.digests['weights'][:16]}...)."
        )
        causes = [str(fault["cause"]) for fault in (safe.report or {}).get("faults", ())]
        said.append(f"Its report: {', '.join(causes) or 'no fault'}.")
    elif not (right.finished and safe.finished):
        late = right if not right.finished else safe
        said.append(f"NOT SHOWN: {late.title} has {len(late.batches)} of {late.due} batches: {late.ended}")
    else:
        parts = [name for name, value in right.digests.items() if safe.digests.get(name) != value]
        said.append(f"NOT EQUAL: {', '.join(parts)} of safeloader's run differ from those of the undisturbed one.")
    said += [f"{run.title}: {len(run.batches)} of {run.due} batches, then {run.ended}" for run in others]
    return said
