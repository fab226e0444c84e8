"""Groups of measurements of a run: shared processes, faults, the end, and what state, guard and observing cost."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.speed import child, memory
from benchmarks.speed.plan import Plan, Table, paired
from benchmarks.speed.stats import Spread

if TYPE_CHECKING:
    from collections.abc import Callable


def pool(plan: Plan) -> Table:
    """Train and val side by side."""
    base, ours = plan.loaders
    table = Table(
        "Train and val side by side, 4 persistent workers each; safeloader's on one pool of 4 processes",
        "Memory: trainer and workers together as above, with both loaders in mid-epoch. The way back: seconds from "
        "`iter(train)` to its first batch after an epoch of val, median of a program's epochs. "
        f"Ratio: {ours} over {base}; at most 0.5 is asked of both.",
        ["", "ratio", base, ours],
    )
    for megabytes in (0,) if plan.quick else (0, 300):
        weigh = partial(memory.weigh, megabytes=megabytes, workers=4, limit=120, module="pool")
        arms = _arms(plan, table, "total", weigh)
        title = f"memory, datasets of {megabytes} MB each, MB" if megabytes else "memory, datasets of no size, MB"
        _add_ratio(plan, table, title, arms, 1e-6, 0)
        if ours == "safeloader":
            arms = _arms(plan, table, "total", weigh, "-forkserver")
            _add_ratio(plan, table, f"{title}; pool of a fork server", arms, 1e-6, 0)
    switches = 5 if plan.quick else 20
    for workers in (4,) if plan.quick else (2, 4):
        arms = _arms(plan, table, "median", partial(_switch, workers, switches))
        _add_ratio(plan, table, f"first batch after a switch, {workers} workers, ms", arms, 1e3, 1)
    return table


def _switch(workers: int, times: int, loader: str) -> child.Result:
    return child.run("pool", loader, "--switches", times, "--workers", workers, limit=120)


def _arms(
    plan: Plan, table: Table, key: str, measure: Callable[[str], child.Result], suffix: str = ""
) -> tuple[list[float], list[float]]:
    """Measure in pairs; the values under this key, for each of the two. The second's name ends with ``suffix``."""
    arms: tuple[list[float], list[float]] = ([], [])
    for arm, loader in paired(plan):
        loader += suffix * arm
        plan.say(f"{table.title.split(',')[0].lower()}: {loader}")
        result = measure(loader)
        table.raw.append({"loader": loader, **result})
        if key in result:
            arms[arm].append(result[key])
    return arms


def _add_ratio(
    plan: Plan, table: Table, title: str, arms: tuple[list[float], list[float]], unit: float, digits: int
) -> None:
    if len(arms[0]) == len(arms[1]) == plan.repeats:
        absolute = [Spread.of([value * unit for value in arm]).text(digits) for arm in arms]
        table.rows.append([title, Spread.of_ratios(arms[1], arms[0]).text(unit="×"), *absolute])
    else:
        table.rows.append([title, "failed", *(f"{len(arm)} of {plan.repeats} measured" for arm in arms)])


def faults(plan: Plan) -> Table:
    """What a signal to one worker costs."""
    table = Table(
        "A worker gets a signal in mid-epoch",
        "2 workers; for SIGSTOP a deadline of 3 s for a batch (torch: `timeout=3`). Noticed: seconds from the signal "
        "to the loader's report or error. The longest wait is that for the slowest batch after the signal; a start "
        "is the time to the first batch in the same run.",
        ["signal", "loader", "outcome", "batches", "noticed, s", "longest wait, s", "a start, s"],
    )
    repeats = min(plan.repeats, 1 if plan.quick else 3)
    for kind in ("kill", "stop"):
        results: dict[str, list[child.Result]] = {loader: [] for loader in plan.loaders}
        for _, loader in paired(Plan(plan.loaders, repeats, plan.quick, plan.say)):
            plan.say(f"faults: {kind}, {loader}")
            result = child.run("faults", loader, kind, limit=40)
            table.raw.append({"signal": kind, "loader": loader, **result})
            results[loader].append(result)
        if plan.loaders[1] == "safeloader" and kind == "kill":
            plan.say("faults: kill, with a standby")
            standby = [child.run("faults", "safeloader-standby", kind, limit=60) for _ in range(repeats)]
            table.raw += [{"signal": kind, "loader": "safeloader-standby", **result} for result in standby]
            results["safeloader-standby"] = standby
        for loader, found in results.items():
            table.rows.append(["SIG" + kind.upper(), loader, *_fault_cells(found)])
    return table


def _fault_cells(found: list[child.Result]) -> list[str]:
    outcomes = sorted({str(r.get("outcome") or f"hang: {r['error']}") for r in found})
    counts = sorted({f"{r['batches']} of {r['due']}" for r in found if "due" in r})

    def spread(key: str) -> str:
        values = [r[key] for r in found if r.get(key) is not None]
        return Spread.of(values).text() if values else "-"

    return [" / ".join(outcomes), " / ".join(counts), spread("noticed"), spread("longest"), spread("start")]


def exits(plan: Plan) -> Table:
    """The end of a program whose workers are stuck."""
    base, ours = plan.loaders
    table = Table(
        "The interpreter's exit with 4 stuck workers",
        "Seconds from the program's last line until it is gone; all workers sleep in a sample for ever. At most 2 s "
        "is asked.",
        ["", "ratio", f"{base}, s", f"{ours}, s"],
    )
    arms = _arms(plan, table, "seconds", lambda loader: child.run("exits", loader, limit=100))
    _add_ratio(plan, table, "exit", arms, 1.0, 2)
    return table


def state(plan: Plan) -> Table:
    """What being able to resume costs while nobody resumes."""
    table = Table(
        "State: batches a second against a loader whose dataset has none",
        "safeloader alone, 2 persistent workers, batches of 64 pictures (3×224×224 uint8). A state of 10 MB in each "
        "worker's dataset; by default a worker marks it at most for 0.5 % of its time, and at each epoch's beginning "
        "(epochs last some seconds here). The last column is one "
        "`state_dict()` in mid-epoch.",
        ["arm", "ratio", "batches/s", "state_dict(), ms"],
    )
    plan.say("state")
    batches = 100 if plan.quick else 2000
    result = child.run("state", "--repeats", plan.repeats, "--batches", batches, limit=120 + 60 * plan.repeats)
    table.raw.append(result)
    if "error" in result:
        table.rows.append(["failed", result["error"], "", ""])
        return table
    names = {"plain": "no state", "stateful": "10 MB, default", "each step": "10 MB, snapshot_every_n_steps=1"}
    for arm, rates in result["rates"].items():
        ratio = Spread.of_ratios(rates, result["rates"]["plain"]).text(unit="×")
        name = names.get(arm, "no state, Policy(sample_rng=True)")
        table.rows.append([name, ratio, Spread.of(rates).text(0), f"{result['asked'][arm]:.1f}"])
    return table


def guard(plan: Plan) -> Table:
    """What a FiniteGuard adds to a training step."""
    table = Table(
        "FiniteGuard: a training step on the CPU",
        "A small CNN, 32 images of 3 × 32 × 32, 95,000 parameters; and an MLP of 42 million parameters at batch 4. Ten "
        "steps of each arm in turns of random order, with an allocator that keeps what is freed (when it gives memory "
        "back depends on what lies where, and moves a step by 5 % either way). The guard's calls are timed inside the "
        "step, with its caches; their mean is told, as one of 32 reads a large model whole. `large_every=1` reads all "
        "of it at each step. At most 2 % is asked.",
        ["", "a step without the guard's calls, ms", "the guard's calls, ms", "share"],
    )
    keeping = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
    for net, steps in (("cnn", 200), ("mlp", 64)):
        plan.say(f"guard: a step with and without it, {net}")
        asked = ("--net", net, "--repeats", plan.repeats, "--steps", 30 if plan.quick else steps)
        result = child.run("guard", *asked, limit=1200, environment=keeping)
        table.raw.append(result)
        if "error" in result:
            table.rows.append([net, result["error"], "", ""])
            continue
        for name, arm in (("without", "without"), ("without, again: the noise", "again"), ("with", "with"),
                          ("with large_every=1", "whole")):  # fmt: skip
            step = Spread.of([1e3 * seconds for seconds in result[arm]]).text()
            calls = result.get(f"calls of {arm}")
            told = ["", ""]
            if calls:
                told = [Spread.of([1e3 * seconds for seconds in calls]).text(3)]
                told.append(Spread.of([100 * a / b for a, b in zip(calls, result[arm], strict=True)]).text(2, " %"))
            table.rows.append([f"{net}: {name}", step, *told])
    return table


def observing(plan: Plan) -> Table:
    """What pulses, timings, events and metrics cost the trainer."""
    table = Table(
        "Observing: the trainer's processor time a batch, at 1,000 batches a second",
        "safeloader alone, 2 persistent workers, batches of 4 × 8 float32, epochs of all arms in turn. Added: "
        "median of the differences to the first arm in the same round; its share of a second at 1,000 batches a "
        "second. At most 1 % is asked.",
        ["arm", "µs a batch", "added, µs", "share"],
    )
    plan.say("observing: with nothing observed, as always, with every sink, with an event for each batch")
    batches = 1000 if plan.quick else 5000
    limit = 60 + 40 * plan.repeats
    result = child.run("observing", "--repeats", plan.repeats, "--batches", batches, limit=limit)
    table.raw.append(result)
    if "error" in result:
        table.rows.append(["failed", result["error"], "", ""])
        return table
    names = {
        "nothing": "nothing is observed (only here)",
        "always": "as always",
        "all sinks": "events, and Prometheus once a second",
        "trace": "an event for each batch (SAFELOADER_TRACE=1)",
    }
    arms = {arm: [1e6 * seconds for seconds in found] for arm, found in result["seconds"].items()}
    for arm, spent in arms.items():
        added = Spread.of([a - b for a, b in zip(spent, arms["nothing"], strict=True)])
        shown = ["-", "-"] if arm == "nothing" else [added.text(1), f"{added.median / 10:.2f} %"]
        table.rows.append([names[arm], Spread.of(spent).text(1), *shown])
    alone = 1e6 * result["alone"]
    table.rows.append(["the observing calls alone", f"{alone:.1f}", "", f"{alone / 10:.2f} %"])
    return table
