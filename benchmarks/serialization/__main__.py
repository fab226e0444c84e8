"""Which serialiser gets the classes and functions of a script into a fresh interpreter, and at what price?

``python -m benchmarks.serialization [--write]`` prints the table; ``--write`` keeps it in ``results.md``
beside this file. Every case is a script on the standard input of an interpreter of its own; every object is
loaded and used in another one, by ``python -c``, as a worker process is started.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.serialization.bulk import bulk_table, import_table
from benchmarks.serialization.cases import ALL, Case
from benchmarks.serialization.methods import NAMES

_SECONDS = 30
_ROOT = Path(__file__).resolve().parents[2]
_EPILOGUE = """

from benchmarks.serialization.methods import dump_all
dump_all(obj, {use!r}, {folder!r})
"""
_LOAD = "import sys; from benchmarks.serialization.methods import load_and_use; load_and_use(*sys.argv[1:])"


def main() -> None:
    """Run all cases, print and, where asked, keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table in results.md")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    options = parser.parse_args()
    cases = [case for case in ALL if options.only in case.name]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(run_case, cases))
    text = _page(cases, rows, whole=not options.only)
    print(text)
    if options.write:
        Path(__file__).with_name("results.md").write_text(text)


def run_case(case: Case) -> dict[str, Any]:
    """Return for each method what became of the case: ``ok`` or an ``error``, ``bytes`` and ``us``."""
    with tempfile.TemporaryDirectory() as folder:
        script = case.source + _EPILOGUE.format(use=case.use, folder=folder)
        done = _run(["-"], script)
        if done.returncode:
            raise RuntimeError(f"{case.name}: {done.stderr}")
        facts: dict[str, Any] = json.loads(Path(folder, "facts.json").read_text())
        for name in NAMES:
            if "error" not in facts[name]:
                _judge(facts[name], _load(name, str(Path(folder, name)), case.use), facts["expected"])
    return facts


def _judge(row: dict[str, Any], said: str, expected: str) -> None:
    if said == f"value {expected}":
        row["ok"] = True
    else:
        row["error"] = said.removeprefix("error ") if said.startswith("error") else f"at use, {said} != {expected}"


def _load(name: str, file: str, use: str) -> str:
    try:
        done = _run(["-c", _LOAD, name, file, use], "")
    except subprocess.TimeoutExpired:
        return f"error at load or use, no end within {_SECONDS} s"
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else f"error at load, exit code {done.returncode}"


def _run(arguments: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tempfile.gettempdir(),
        check=False,
    )


def _page(cases: list[Case], rows: list[dict[str, Any]], *, whole: bool) -> str:
    used = ", ".join(f"{name} {version(name)}" for name in ("cloudpickle", "dill", "multiprocess", "torch"))
    lines = [
        "# Serialisers and the classes of a script",
        "",
        f"Python {platform.python_version()}, {used}.",
        "Written by `python -m benchmarks.serialization --write`.",
        "",
        "A case counts (✓) if the object can be loaded and used, with the same result, in an interpreter",
        "that never saw the script. Then: bytes, and the best of up to 20 dumps in microseconds of CPU time.",
        "*safeloader* is `safeloader.runtime.carry`, which is cloudpickle with additions; *multiprocess* is",
        "dill as that package sets it, without `recurse`.",
        "The additions of *safeloader* were written along with these cases, so that column shows what is",
        "covered, and is no independent trial; known not to work:",
        "`__init_subclass__` with required arguments, unhashable classes.",
        "",
        "| case | " + " | ".join(NAMES) + " |",
        "|---|" + "---|" * len(NAMES),
    ]
    for case, row in zip(cases, rows, strict=True):
        lines.append(f"| {case.name} | " + " | ".join(_cell(row[name]) for name in NAMES) + " |")
    passed = [sum("ok" in row[name] for row in rows) for name in NAMES]
    lines.append(f"| **of {len(cases)}** | " + " | ".join(f"**{count}**" for count in passed) + " |")
    lines += ["", "## What went wrong", ""]
    for case, row in zip(cases, rows, strict=True):
        for name in NAMES:
            if "error" in row[name]:
                lines.append(f"- {case.name}, {name}: {row[name]['error'].replace('<', '&lt;')}")
    if whole:
        lines += ["", *bulk_table(), "", *import_table()]
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    mark = "✓" if "ok" in row else "✗"
    return f"{mark} {row['bytes']} B, {row['us']:.0f} µs" if "bytes" in row else mark


if __name__ == "__main__":
    main()
