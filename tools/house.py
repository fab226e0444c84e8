"""Measures the house: lines, layers, circles of imports, and the files that a batch and a SIGKILL walk through.

    python tools/house.py              what is measured, a line each
    python tools/house.py --limits     the same; exit status 1 where a limit is missed
    python tools/house.py --violations what breaks the order of layers

All imports count, late ones and those for types only, too.
"""

from __future__ import annotations

import argparse
import ast
import functools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "safeloader"

LAYERS = (
    (
        *("errors", "config", "setting_table", "setting_types", "spelling", "fault_plan"),
        *("torch_private", "torch_ambient", "dist_env", "lengths", "clock", "process_memory"),
        *("notes", "codes", "code_table", "code_tables"),
        # An error carries its loader's report, so a report and what it is made of, plain values and words, come first.
        *("observe.report", "observe.events", "observe.happening", "observe.stall_events"),
        *("observe.messages", "observe.format", "observe.fault_lines"),
        *("observe.timings", "observe.spread"),
    ),
    ("core",),
    ("observe",),
    ("runtime",),
    ("resume", "distributed", "loader_face"),
    (
        "loader",
        "loader_state",
        "iterators",
        "single_process",
        "process_copies",
        "start_method",
        "pool",
        "patching",
        "rebuilding",
        "import_hooks",
        "disabled",
        "torch_idioms",
        "takeover",
        "unprotected",
        "stateful",
        "ray",
        "ray_data",
        "progress_bar",
        "recent_batches",
        "main_module",
        "fault_tally",
        "carry",
    ),
    ("ffcv", "training", "remote"),
    ("auditing", "bisecting", "doctor", "tracing", "metrics", "tensorboard", "testing"),
    # The public `__init__` names what all layers offer, and imports a name's home when it is asked for. So it stands
    # above them all, beside the programs, which use it as anybody's do. Nothing below may import from it.
    ("", "cli", "__main__", "demo", "telemetry"),
)
"""The packages from the bottom up. A file belongs to the longest name here that it begins with."""
APART = (6, 7)
"""Layers whose packages do not import each other."""

INSIDE = {
    "_safe": ("loader", "loader_state"),
    "supervisor": ("core", "runtime"),
    "_driver": ("runtime", "iterators"),  # an iterator makes its driver
}
"""Attributes that only these packages and files may touch."""

MOST_LINES, MOST_BENCHMARK_LINES, MOST_LINES_OF_A_FILE = 30_000, 8_500, 350
MOST_FILES_OF_A_BATCH, MOST_FILES_OF_A_FAULT = 12, 25

Graph = dict[str, set[str]]


class Place(NamedTuple):
    """Where a file lives: the number of its layer, and the name there that it belongs to."""

    layer: int
    package: str


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The files of the package by their names within it; "" is the package's own."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(files: Mapping[str, Path]) -> Graph:
    """Which of the files imports which."""
    return {name: set(_imports(name, path, files)) - {name} for name, path in files.items()}


def _imports(name: str, path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    package = f"{PACKAGE}.{name}".rstrip(".").split(".")
    if path.stem != "__init__":
        package.pop()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (_file(alias.name, files) for alias in node.names if _own(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if _own(module):
                yield from (_file(f"{module}.{alias.name}", files) for alias in node.names)


def _own(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def _file(module: str, files: Mapping[str, Path]) -> str:
    """The file that a module, or a name in one, comes from."""
    name = module.partition(".")[2]
    while name not in files:
        name = name.rpartition(".")[0]
    return name


def place(name: str) -> Place:
    """The layer of a file.

    Raises:
        LookupError: it has none.
    """
    best = max(
        (
            Place(number, package)
            for number, packages in enumerate(LAYERS)
            for package in packages
            if name == package or (package and name.startswith(f"{package}."))
        ),
        key=lambda found: len(found.package),
        default=None,
    )
    if best is None:
        raise LookupError(f"{PACKAGE}.{name} is in no layer: give it one in tools/house.py")
    return best


def upward(graph: Graph) -> list[tuple[str, str]]:
    """Imports that point up, or to a package beside that is to be left alone."""
    places = {name: place(name) for name in graph}

    def allowed(one: Place, other: Place) -> bool:
        if one.layer == other.layer and one.layer in APART:
            return one.package == other.package
        return other.layer <= one.layer

    return sorted((one, other) for one in graph for other in graph[one] if not allowed(places[one], places[other]))


def reaching(files: Mapping[str, Path]) -> list[tuple[str, str]]:
    """The files that touch what is inside of another package, each with the attribute."""
    return sorted(
        {
            (name, node.attr)
            for name, path in files.items()
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.Attribute)
            and node.attr in INSIDE
            and not any(name == one or (one and name.startswith(f"{one}.")) for one in INSIDE[node.attr])
        }
    )


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Groups of files each of which imports the others, by whatever way (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(tuple(sorted(stack[at:])))
            del stack[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return sorted(found, key=lambda group: (-len(group), group))


def violations(files: Mapping[str, Path]) -> list[str]:
    """What breaks the order, a line each.

    First imports that point up; then circles of files that are left without those; then inner parts of a package that
    a file of another one touches; then files that are too long.
    """
    graph = imports(files)
    up = upward(graph)
    rest = {name: {other for other in graph[name] if (name, other) not in up} for name in graph}
    return [
        *(f"up: {_shown(one)} -> {_shown(other)}" for one, other in up),
        *(f"circle: {' '.join(map(_shown, group))}" for group in circles(rest)),
        *(f"reach: {_shown(name)} .{attribute}" for name, attribute in reaching(files)),
        *(
            f"long: {_shown(name)} {lines}"
            for name, path in files.items()
            if (lines := _lines([path])[path]) > MOST_LINES_OF_A_FILE
        ),
    ]


def _shown(name: str) -> str:
    return name or "(the package)"


# ---------------------------------------------------------------- walks


class Walks(NamedTuple):
    """How many files of the package the trainer's main thread goes through.

    Attributes:
        batch: for one that is ready when it is asked for (`tools.walk`).
        hops: from file to file, for one batch.
        fault: for a SIGKILL.
    """

    batch: int
    hops: int
    fault: int


def walks() -> Walks:
    """Follow a batch, and a SIGKILL, through the running code."""
    command = [sys.executable, "-W", "ignore", "-m", "tools.walk"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True, cwd=ROOT)
    return Walks(*map(int, done.stdout.split()[-3:]))


# ---------------------------------------------------------------- the command


def _lines(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.read_text().count("\n") for path in paths}


def main() -> None:
    """Print what is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", action="store_true", help="exit with 1 where a limit is missed")
    parser.add_argument("--violations", action="store_true", help="print what breaks the order, and end")
    options = parser.parse_args()
    files = modules()
    wrong = violations(files)
    if options.violations:
        print("\n".join(wrong))
        return
    lines = _lines(files.values())
    longest = max(lines, key=lambda path: lines[path])
    benchmarks = sum(_lines((ROOT / "benchmarks").rglob("*.py")).values())
    walked = walks()
    measured = (
        ("lines of the package", sum(lines.values()), MOST_LINES),
        (f"lines of its longest file, {longest.relative_to(ROOT)}", lines[longest], MOST_LINES_OF_A_FILE),
        ("lines of the benchmarks", benchmarks, MOST_BENCHMARK_LINES),
        ("imports that point up", sum(line.startswith("up") for line in wrong), 0),
        ("circles of files", sum(line.startswith("circle") for line in wrong), 0),
        ("files that reach into another package", sum(line.startswith("reach") for line in wrong), 0),
        ("files that a batch goes through", walked.batch, MOST_FILES_OF_A_BATCH),
        ("files that a SIGKILL goes through", walked.fault, MOST_FILES_OF_A_FAULT),
    )
    print(f"{len(lines)} files; a batch makes {walked.hops} hops from file to file")
    for what, value, most in measured:
        print(f"{value:7,d}  {what}" + (f"  (at most {most:,})" if value > most else ""))
    if options.limits and any(value > most for _, value, most in measured):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
