"""The groups of measurements: each runs its child programs in pairs and returns one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.speed import child, memory, syscalls
from benchmarks.speed.stats import Spread
from benchmarks.speed.workloads import INLINE, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        loaders: The two names of a pair; the first is what the second is compared with.
        repeats: Pairs per measurement.
        quick: Shorter epochs, fewer variants.
        say: Called with what is being measured now.
    """

    loaders: tuple[str, str]
    repeats: int
    quick: bool
    say: Callable[[str], None]


@dataclass
class Table:
    """A table of results.

    Attributes:
        title: What was measured.
        note: How to read it, in a sentence or two.
        columns: The headings.
        rows: Cells as text.
        raw: All measured values, for the JSON file.
    """

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)


def _paired(plan: Plan) -> Iterator[tuple[int, str]]:
    """The arms (0 or 1) of all pairs in the order they run in: A B, B A, A B, ..."""
    for repeat in range(plan.repeats):
        order = (0, 1) if repeat % 2 == 0 else (1, 0)
        for arm in order:
            yield arm, plan.loaders[arm]


def throughput(plan: Plan) -> Table:
    """Whole epochs of the four workloads."""
    base, ours = plan.loaders
    table = Table(
        "Throughput, 2 spawned persistent workers",
        f"{ours} over {base}: median of the ratios of {plan.repeats} pairs of epochs (least to greatest). "
        "An idle consumer takes the batch and drops it; a reading one reads every byte once, in one thread, and reads "
        "no more than it can where nobody loads (in brackets). "
        "The control compares the first loader with itself: its distance from 1 is the noise of the machine.",
        ["workload", "consumer", "ratio", "asked", f"{base}, batches/s", f"{ours}, batches/s"],
    )
    first = next(iter(WORKLOADS))
    _rates(plan, table, first, read=False, pair=(base, base), title="control")
    for name in WORKLOADS:
        for read in (False,) if plan.quick else (False, True):
            _rates(plan, table, name, read=read)
    return table


def inline(plan: Plan) -> Table:
    """Loading in the main process: what safety costs where there is nothing to be safe from."""
    base, ours = plan.loaders
    table = Table(
        "No workers (num_workers=0)",
        f"{ours} over {base}; 1 means that it costs nothing.",
        ["workload", "consumer", "ratio", "asked", f"{base}, batches/s", f"{ours}, batches/s"],
    )
    for name in INLINE:
        _rates(plan, table, name, read=False)
    return table


def _rates(
    plan: Plan,
    table: Table,
    name: str,
    *,
    read: bool,
    pair: tuple[str, str] | None = None,
    title: str | None = None,
) -> None:
    """Measure one workload and add its row."""
    workload = (WORKLOADS | INLINE)[name]
    consumer = "reads" if read else "idle"
    plan.say(f"throughput: {title or workload.title}, consumer {consumer}")
    arguments: list[object] = [name, "--loaders", ",".join(pair or plan.loaders), "--repeats", plan.repeats]
    if plan.quick:
        arguments += ["--batches", max(20, workload.batches // 4)]
    if read:
        arguments.append("--read")
    result = child.run("throughput", *arguments, limit=60 + 20 * plan.repeats)
    table.raw.append({"workload": name, "consumer": consumer, "loaders": pair or plan.loaders, **result})
    label = f"{title}: {workload.title}" if title else workload.title
    if "error" in result:
        table.rows.append([label, consumer, result["error"], "", "", ""])
        return
    under, over = result["rates"]["0"], result["rates"]["1"]
    asked = f"≥ {workload.least:g}" if workload.least and not title else ""
    ratio = Spread.of_ratios(over, under)
    if read:
        consumer += f" (at most {result['reader_alone']:,.0f}/s)"
    table.rows.append([label, consumer, ratio.text(unit="×"), asked, Spread.of(under).text(0), Spread.of(over).text(0)])


def start(plan: Plan) -> Table:
    """Time to the first batch."""
    base, ours = plan.loaders
    table = Table(
        "Seconds to the first batch",
        f"From `iter()` to the first batch of a trivial dataset, imports done. Ratio: {ours} over {base} with spawn, "
        "pair by pair. A warm fork server has served another loader of the same program; with `prestart` the loader "
        "was built ten seconds before.",
        ["workers", "how", "ratio", "asked", f"{base}, s", f"{ours}, s"],
    )
    for workers in (2,) if plan.quick else (2, 4, 8):
        ways = [w for w in WAYS if w.always or workers == 8] if ours == "safeloader" else [Way("spawn", "")]
        seconds: dict[str, list[float]] = {title: [] for title in ("", *(way.title for way in ways))}
        for repeat in range(plan.repeats):
            order = [Way("", "", loader=base), *ways]
            for way in order if repeat % 2 == 0 else reversed(order):
                plan.say(f"start: {workers} workers, {way.title or base}")
                name = way.loader or ours + way.suffix
                result = child.run("start", name, "--workers", workers, *way.options, limit=120)
                table.raw.append({"workers": workers, "loader": name, "options": way.options, **result})
                seconds[way.title] += [result["seconds"]] if "seconds" in result else []
        for way in ways:
            asked = way.asked if workers == 8 else ""
            table.rows.append([str(workers), way.title, *_start_cells(seconds[""], seconds[way.title], asked, plan)])
    return table


@dataclass(frozen=True)
class Way:
    """A way to start that is compared with torch's spawn."""

    title: str
    suffix: str
    options: tuple[str, ...] = ()
    asked: str = ""
    always: bool = False
    loader: str = ""


WAYS = (
    Way("spawn", "", asked="≤ 0.6", always=True),
    Way("forkserver, cold", "-forkserver", asked="≤ 0.25", always=True),
    Way("forkserver, warm", "-forkserver", ("--again",), asked="≤ 0.05"),
    Way("prestart", "-prestart", ("--wait", "10")),
)


def _start_cells(base: list[float], ours: list[float], asked: str, plan: Plan) -> list[str]:
    if not len(base) == len(ours) == plan.repeats:
        return ["failed", asked, *(f"{len(s)} of {plan.repeats} started" for s in (base, ours))]
    ratio = Spread.of_ratios(ours, base).text(unit="×")
    return [ratio, asked, Spread.of(base).text(), Spread.of(ours).text()]


def system_calls(plan: Plan) -> Table:
    """System calls of the trainer per batch."""
    table = Table(
        "System calls of the trainer per batch, in mid-epoch",
        "Counted by strace on all threads of the trainer; the workers are not counted.",
        ["workload", "loader", "all", *syscalls.CHURN, "the rest"],
    )
    for name in ("small", "images-64"):
        for loader in plan.loaders:
            plan.say(f"system calls: {name}, {loader}")
            result = syscalls.count(loader, name, 200 if plan.quick else 1000, limit=60)
            table.raw.append({"workload": name, "loader": loader, **result})
            table.rows.append([WORKLOADS[name].title, loader, *_call_cells(result)])
    return table


def _call_cells(result: child.Result) -> list[str]:
    if "error" in result:
        return [result["error"], *[""] * (len(syscalls.CHURN) + 1)]
    calls: dict[str, float] = result["calls"]
    rest = sorted(((n, name) for name, n in calls.items() if name not in syscalls.CHURN), reverse=True)
    return [
        f"{sum(calls.values()):.1f}",
        *(f"{calls.get(name, 0):.2f}" for name in syscalls.CHURN),
        ", ".join(f"{name} {n:.1f}" for n, name in rest[:5] if n >= 0.05) + (", ..." if len(rest) > 5 else ""),
    ]


def physical_memory(plan: Plan) -> Table:
    """Memory of trainer and workers together."""
    megabytes, workers = 300, 4
    base, ours = plan.loaders
    others = (ours, "safeloader-forkserver") if ours == "safeloader" else (ours,)
    table = Table(
        f"Physical memory with a {megabytes} MB array in the dataset, {workers} workers",
        "Trainer, workers and fork server together, PSS plus shared memory held open but not mapped, in mid-epoch; the "
        "peak since the start of the program is sampled ten times a second. "
        f"Ratio: over {base} with spawn; at most 0.5 is asked.",
        ["loader", "", "ratio", f"{base}, MB", "this, MB"],
    )
    repeats = min(plan.repeats, 3)
    found: dict[str, dict[str, list[float]]] = {name: {"total": [], "peak": []} for name in (base, *others)}
    for repeat in range(repeats):
        for loader in (base, *others) if repeat % 2 == 0 else (*reversed(others), base):
            plan.say(f"memory: {loader}")
            result = memory.weigh(loader, megabytes, workers, limit=120)
            table.raw.append({"loader": loader, **result})
            for key, values in found[loader].items():
                values += [result[key] / 1e6] if key in result else []
    for loader in others:
        for key, title in (("total", "mid-epoch"), ("peak", "peak")):
            under, over = found[base][key], found[loader][key]
            if len(under) == len(over) == repeats:
                ratio = Spread.of_ratios(over, under).text(unit="×")
                table.rows.append([loader, title, ratio, Spread.of(under).text(0), Spread.of(over).text(0)])
            else:
                measured = (f"{len(arm)} of {repeats} measured" for arm in (under, over))
                table.rows.append([loader, title, "failed", *measured])
    return table


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
    for arm, loader in _paired(plan):
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
        for _, loader in _paired(Plan(plan.loaders, repeats, plan.quick, plan.say)):
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
        "FiniteGuard: a small CNN's training step on the CPU",
        "32 images of 3 × 32 × 32, 95,000 parameters; batch, loss, gradients and weights looked at in each step. Ten "
        "steps of each arm in turns of random order, with an allocator that keeps what is freed (when it gives memory "
        "back depends on what lies where, and moves a step by 5 % either way). The guard's calls are timed inside the "
        "step, with its caches. At most 1.02 is asked.",
        ["", "ratio", "a step, ms", "the guard's calls, ms"],
    )
    plan.say("guard: a step with and without it")
    keeping = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
    steps = 30 if plan.quick else 200
    result = child.run("guard", "--repeats", plan.repeats, "--steps", steps, limit=300, environment=keeping)
    table.raw.append(result)
    if "error" in result:
        table.rows.append(["a step", result["error"], "", ""])
        return table
    calls = Spread.of([1e3 * seconds for seconds in result["calls"]]).text(3)
    for name, arm in (("without", "without"), ("without, again: the noise", "again"), ("with", "with")):
        ratio = "" if arm == "without" else Spread.of_ratios(result[arm], result["without"]).text(3, "×")
        step = Spread.of([1e3 * seconds for seconds in result[arm]]).text()
        table.rows.append([name, ratio, step, calls if arm == "with" else ""])
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


GROUPS: dict[str, Callable[[Plan], Table]] = {
    "throughput": throughput,
    "inline": inline,
    "start": start,
    "syscalls": system_calls,
    "memory": physical_memory,
    "pool": pool,
    "faults": faults,
    "exits": exits,
    "state": state,
    "guard": guard,
    "observing": observing,
}
