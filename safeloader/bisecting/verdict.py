"""What the runs say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.bisecting.evidence import own_place
from safeloader.observe.format import duration, many

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.bisecting.evidence import Finding
    from safeloader.bisecting.watch import Run

__all__ = ["verdict"]

_MOST_FOUND = 3
_SKIPPED = ("hung", "died", "oom", "stopped")
"""Causes for which policy can leave a sample out; an error that it raises is the program's to see."""


def verdict(runs: Sequence[Run], untried: Sequence[str] = ()) -> list[str]:
    """Sentences for people: what the script does as it is, who is at fault, what helps, what does not, what to take.

    Args:
        runs: the first is the script as it is.
        untried: start methods that torch's workers could not have, since the script has no main guard.
    """
    first, *others = runs
    if not first.passes and first.outcome == "died":
        return [f"The script ended before any loader was used ({first.detail}): mend that first."]
    told = [f"As it is, the script {_what(first)}.", *_found(runs)]
    good = [run for run in others if run.survived]
    bad = [run for run in others if not run.survived]
    if first.survived:
        if bad:
            told.append(f"It does not with: {_list(bad)}.")
        elif others:
            told.append("So it does with every other setting: what hung did not show; try longer runs (--enough).")
        return told
    if good:
        told.append(f"It survives with: {_list(good)}.")
    if bad:
        told.append(f"It does not with: {_list(bad, outcomes=True)}.")
    if untried:
        told.append(
            f"Not tried with torch: {' and '.join(untried)}. The script has no main guard "
            '(if __name__ == "__main__"), so their workers would run it again.'
        )
    if others:
        told.append(_advice(runs, good))
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


def _found(runs: Sequence[Run]) -> Iterator[str]:
    """The best evidence there is: the samples that safeloader found to be at fault."""
    told: dict[str, None] = {}
    for run in runs:
        for finding in run.found[-_MOST_FOUND:]:
            went_on = " and was then loaded by another one" if run.survived else ""
            told.setdefault(f"safeloader names the sample: {finding}{went_on}.")
    yield from list(told)[:_MOST_FOUND]


def _list(runs: Sequence[Run], outcomes: bool = False) -> str:
    return "; ".join(run.setting.label + (f" ({run.outcome})" if outcomes else "") for run in runs)


def _advice(runs: Sequence[Run], good: Sequence[Run]) -> str:
    safe = [run for run in good if run.setting.loader == "safeloader"]
    if safe:
        return "Take safeloader: it survives with the script's own settings, so nothing else is given up."
    best = max(good, key=lambda run: run.batches / run.seconds, default=None)
    named = next((run.found[-1] for run in runs if run.found and not run.survived), None)
    if named is not None:
        return _about(named, best)
    if best is not None:
        return f"Take {best.setting.label}: of what survives it was the fastest."
    places = list(dict.fromkeys(filter(None, (own_place(run.stack) for run in runs))))
    where = f" It stood at {'; '.join(places[:_MOST_FOUND])}." if places else ""
    return f"No setting of the loaders survives: look at the dataset and at the training step.{where}"


def _about(named: Finding, best: Run | None) -> str:
    """A sample that fails whoever loads it is mended, or left out; no setting cures it."""
    mend = f"Mend that sample: load dataset[{named.sample!r}] alone in a fresh Python"
    mend += f", and look at {named.place}." if named.place else "."
    if named.cause in _SKIPPED:
        mend += ' Until then, safeloader goes on without it under Policy(on_bad_sample="skip").'
    if best is None:
        return f"{mend} No other setting helps."
    return f"{mend} {best.setting.label} loads it without an error, for a reason that is in it."
