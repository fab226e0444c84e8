"""The groups of measurements: each runs its child programs in pairs and returns one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.speed import child, memory, running, syscalls
from benchmarks.speed.plan import Plan, Table
from benchmarks.speed.stats import Spread
from benchmarks.speed.workloads import INLINE, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable


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
        f"From `iter()` to the first batch of a trivial dataset, imports done. Ratio: over {base} with spawn, "
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
    Way("torch's forkserver, torch and numpy preloaded", "", loader="torch-forkserver"),
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


DATASETS: dict[str, tuple[object, ...]] = {
    "300 MB array": (),
    "the same, by `carry.to_memory_file`": ("--placed",),
    "2 million strings": ("--strings", 2_000_000),
}


def physical_memory(plan: Plan) -> Table:
    """Memory of trainer and workers together."""
    workers = 4
    base, ours = plan.loaders
    others = (ours, "safeloader-forkserver", "torch-fork") if ours == "safeloader" else (ours,)
    table = Table(
        f"Physical memory with large datasets, {workers} workers",
        "Trainer, workers, fork server and template together, PSS plus shared memory held open but not mapped, in "
        "mid-epoch, each worker having gone through its part of the dataset; the peak since the start is "
        "sampled ten times a second. What a worker has looked at of a list is a copy of its own, whoever forked it: "
        "Python counts references. "
        f"Ratio: over {base} with spawn.",
        ["dataset", "loader", "", "ratio", f"{base}, MB", "this, MB"],
    )
    for title, options in DATASETS.items():
        found = _weighed(plan, table, (base, *others), workers, options)
        for loader in others:
            for key, when in (("total", "mid-epoch"), ("peak", "peak")):
                cells = _memory_cells(found[base][key], found[loader][key], min(plan.repeats, 3))
                table.rows.append([title, loader, when, *cells])
    return table


def _weighed(
    plan: Plan, table: Table, names: tuple[str, ...], workers: int, options: tuple[object, ...]
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {name: {"total": [], "peak": []} for name in names}
    for repeat in range(min(plan.repeats, 3)):
        for loader in names if repeat % 2 == 0 else reversed(names):
            plan.say(f"memory: {loader} {' '.join(map(str, options))}")
            result = memory.weigh(loader, 300, workers, limit=240, options=options)
            table.raw.append({"loader": loader, "options": options, **result})
            for key, values in found[loader].items():
                values += [result[key] / 1e6] if key in result else []
    return found


def _memory_cells(under: list[float], over: list[float], repeats: int) -> list[str]:
    if len(under) == len(over) == repeats:
        return [Spread.of_ratios(over, under).text(unit="×"), Spread.of(under).text(0), Spread.of(over).text(0)]
    return ["failed", *(f"{len(arm)} of {repeats} measured" for arm in (under, over))]


GROUPS: dict[str, Callable[[Plan], Table]] = {
    "throughput": throughput,
    "inline": inline,
    "start": start,
    "syscalls": system_calls,
    "memory": physical_memory,
    "pool": running.pool,
    "faults": running.faults,
    "exits": running.exits,
    "state": running.state,
    "guard": running.guard,
    "observing": running.observing,
}
