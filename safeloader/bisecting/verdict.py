"""What the runs say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.observe.format import duration, many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.bisecting.watch import Run

__all__ = ["verdict"]


def verdict(runs: Sequence[Run]) -> list[str]:
    """Sentences for people: what the script does as it is, what helps, what does not, what to take."""
    first, *others = runs
    if not first.passes and first.outcome == "died":
        return [f"The script ended before any loader was used ({first.detail}): mend that first."]
    told = [f"As it is, the script {_what(first)}."]
    good = [run for run in others if run.survived]
    bad = [run for run in others if not run.survived]
    if not others:
        return told
    if first.survived:
        if bad:
            told.append(f"It does not with: {_list(bad)}.")
        else:
            told.append("So it does with every other setting: what hung did not show; try longer runs (--enough).")
        return told
    if good:
        told.append(f"It survives with: {_list(good)}.")
    if bad:
        told.append(f"It does not with: {_list(bad, outcomes=True)}.")
    told.append(_advice(good))
    return told


def _what(run: Run) -> str:
    count = many(run.batches, "batch")
    if run.outcome == "finished":
        return f"finishes ({count} in {duration(run.seconds)})"
    if run.outcome == "went on":
        return f"goes on ({count} in {duration(run.seconds)}, then it was ended)"
    if run.outcome == "hung":
        return f"hangs after {count}; it {run.detail}"
    return f"dies after {count} ({run.detail})"


def _list(runs: Sequence[Run], outcomes: bool = False) -> str:
    return "; ".join(run.setting.label + (f" ({run.outcome})" if outcomes else "") for run in runs)


def _advice(good: Sequence[Run]) -> str:
    if not good:
        return "No setting of the loaders survives: look at the dataset and at the training step (see the stacks)."
    safe = [run for run in good if run.setting.loader == "safeloader"]
    if safe:
        return "Take safeloader: it survives with the script's own settings, so nothing else is given up."
    best = max(good, key=lambda run: run.batches / run.seconds)
    return f"Take {best.setting.label}: of what survives it was the fastest."
