"""MetricWatch over simulated healthy runs and the incidents' own numbers: ``python -m benchmarks.incidents.watch``.

Healthy: 60 epochs that rise to a level and stay there, with noise. None should be stopped.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeloader.training import MetricWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUNS, _EPOCHS = 300, 60

LOSSES = [0.3350, 0.3316, 0.3296, 0.3305, 0.3296, 0.3285]
VALIDATION = [0.3330, 0.3288, 0.3276, 0.3246, 0.3316, 0.3209]
DECLINE = [0.63, 0.62, 0.60, 0.57, 0.55, 0.52, 0.50, 0.45, 0.40]


def healthy(noise: float, mode: str, seed: int) -> Iterator[float]:
    """A run that learns."""
    draw = random.Random(seed)
    level, pace = draw.uniform(0.5, 0.97), draw.uniform(3.0, 15.0)
    for epoch in range(_EPOCHS):
        value = level * (1 - math.exp(-(epoch + 1) / pace))
        yield (value if mode == "max" else 2.0 * (1.05 - value)) + draw.gauss(0.0, noise)


def stopped(noise: float, mode: Any, runs: int = _RUNS, seed: int = 0, **options: Any) -> tuple[int, int]:
    """How many of the healthy runs are stopped, and how many are said not to learn."""
    stops = doubts = 0
    for number in range(runs):
        watch = MetricWatch(mode=mode, **options)
        stop = False
        for epoch, value in enumerate(healthy(noise, mode, seed + number)):
            watch.update(value, epoch)
            stop = stop or watch.should_stop
        stops += stop
        doubts += any(finding.kind in ("not_learning", "chance") for finding in watch.findings)
    return stops, doubts


def found(values: list[float], **options: Any) -> list[str]:
    """What is found in a run: kinds, each with its evaluation, counted from 1."""
    watch = MetricWatch(**options)
    return [f"{f.kind} at {n}" for n, value in enumerate(values, 1) for f in watch.update(value, n)]


def collapse(noise: float, seed: int) -> list[float]:
    """Incident 5: 88 epochs up to 0.6413, a decline of nine, a collapse."""
    draw = random.Random(seed)
    rising = [0.64 * (1 - math.exp(-(n + 1) / 20)) + draw.gauss(0.0, noise) for n in range(88)]
    return [*rising, 0.6413, *DECLINE, 0.0022]


def norms(count: int, decay: float, raised: float, seed: int) -> Iterator[float]:
    """Gradient norms that sink as a run learns, and are raised by a factor at two thirds."""
    draw = random.Random(seed)
    for step in range(count):
        yield math.exp(-step * decay) * draw.lognormvariate(0.0, 0.4) * (raised if step > count * 2 // 3 else 1.0)


def gradients(decay: float, raised: float, seed: int) -> list[str]:
    """What is found in 3,000 steps."""
    watch, steps = MetricWatch(), enumerate(norms(3000, decay, raised, seed))
    return [finding.kind for step, norm in steps for finding in watch.gradient_norm(norm, step)]


_Line = tuple[str, str, str, bool]


def table() -> list[_Line]:
    """(what, goal, measured, reached) of each row."""
    rows = [_healthy(mode, noise) for mode in ("max", "min") for noise in (0.002, 0.005, 0.01, 0.02)]
    for name, values in (("training loss", LOSSES), ("validation loss", VALIDATION)):
        kinds = found(values, mode="min")
        rows.append((f"incident 3, {name}", "named by evaluation 8", ", ".join(kinds) or "nothing", bool(kinds)))
    kinds = found([0.001, 0.0010, 0.001], chance=0.001)
    rows.append(("incident 4, accuracy 0.001 of 1,000 classes", "after 2", ", ".join(kinds), "chance at 2" in kinds))
    return [*rows, *map(_incident_5, (0.0, 0.002, 0.005)), _calm(), _raised(1.4), _raised(2.0)]


def _healthy(mode: str, noise: float) -> _Line:
    stops, doubts = stopped(noise, mode)
    text = f"{100 * stops / _RUNS:.1f} % stopped, {100 * doubts / _RUNS:.1f} % said not to learn"
    goal = "under 1 % stopped, under 1 % said not to learn"
    return f"{_RUNS} healthy runs, {mode}, noise {noise:g}", goal, text, max(stops, doubts) < 0.01 * _RUNS


def _incident_5(noise: float) -> _Line:
    by_run = [found(collapse(noise, seed)) for seed in range(20)]
    declines = [next((int(k.split()[-1]) for k in kinds if k.startswith("decline")), 999) for kinds in by_run]
    collapses = [any(k == "collapse at 99" for k in kinds) for kinds in by_run]
    text = f"decline named at {min(declines)} to {max(declines)}, collapse {sum(collapses)} of 20"
    fine = max(declines) <= 95 and all(collapses)
    return f"incident 5, noise {noise:g}", "decline by 95, collapse at 99", text, fine


def _calm() -> _Line:
    spoken_of = sum(bool(gradients(decay, 1.0, seed)) for decay in (0.0, 0.001, 0.003) for seed in range(20))
    what = "60 healthy runs of 3,000 steps, whose norms sink by up to e^-9"
    return what, "nothing said", f"{spoken_of} spoken of", spoken_of == 0


def _raised(factor: float) -> _Line:
    said = sum("gradient_raised" in gradients(0.0, factor, seed) for seed in range(20))
    return f"20 runs whose norm is raised {factor:g} times (incident 5)", "all named", f"{said} named", said == 20


def main() -> None:
    """The command line. Exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()
    logging.getLogger("safeloader").setLevel(logging.ERROR)
    rows = table()
    lines = ["# MetricWatch over simulated runs", "", "Made by `python -m benchmarks.incidents.watch`.", ""]
    lines += ["| runs | goal | measured | reached |", "|---|---|---|---|"]
    lines += [f"| {what} | {goal} | {text} | {'yes' if fine else 'no'} |" for what, goal, text, fine in rows]
    print("\n".join(lines[4:]))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    raise SystemExit(not all(fine for *_, fine in rows))


if __name__ == "__main__":
    main()
