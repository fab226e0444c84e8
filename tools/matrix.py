"""``make matrix``: tests on the oldest and the newest supported torch, and on each Python that this machine offers.

Each pair gets an environment of its own below ``results/matrix`` (kept: the next run is quick), with torch as pip finds
it, without the constraints file. What is not here, cannot be installed or fails is said in a table, which is written to
``results/matrix/RESULTS.md``. The exit status is 1 where a test failed, and 0 also where something was not here: a
machine with one Python has a matrix, too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "matrix"
OLDEST_PYTHON, NEWEST_PYTHON = 10, 14
OLDEST_TORCH = "2.5"
NOT_NEEDED = {"opentelemetry-sdk", "tensorboard"}  # of the extra `test`: none of the quick tests does


@dataclass
class Row:
    """One pair of a Python and a torch, and what came of it.

    Attributes:
        python: ``"3.12"``.
        torch: ``"2.5"`` for the oldest supported, ``"newest"`` for what pip finds.
        path: the Python, or None where it is not here.
        was: the versions that the tests ran with.
        came: what came of it.
        failed: whether a test failed.
    """

    python: str
    torch: str
    path: str | None
    was: str = ""
    came: str = "not here"
    failed: bool = False


@cache
def pythons() -> dict[str, str]:
    """The Pythons of this machine that are supported, by version: on the path, and in pyenv's folder."""
    found = {}
    for minor in range(OLDEST_PYTHON, NEWEST_PYTHON + 1):
        name = f"3.{minor}"
        folders = sorted(Path.home().glob(f".pyenv/versions/{name}.*/bin/python"))
        places = [shutil.which(f"python{name}") or "", *map(str, folders)]
        works = [place for place in places if place and _version(place) == name]
        if works:
            found[name] = works[-1]
    return found


def _version(python: str) -> str:
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def rows(only: str | None) -> list[Row]:
    """What is to be run: the oldest torch with the oldest Python here, the newest torch with all."""
    here = pythons()
    made = [Row(min(here, key=_minor), OLDEST_TORCH, here[min(here, key=_minor)])] if here else []
    names = [f"3.{minor}" for minor in range(OLDEST_PYTHON, NEWEST_PYTHON + 1)]
    made += [Row(name, "newest", here.get(name)) for name in names]
    return [row for row in made if only is None or re.fullmatch(only, f"{row.python}-{row.torch}")]


def _minor(name: str) -> int:
    return int(name.partition(".")[2])


def requirements(python: str) -> list[str]:
    """What the tests need on a Python (``"3.12"``), from the metadata of the installed package.

    An extra that names safeloader with others stands for those: an index may have another package of that name.
    """
    return [*_of_extra("test", python), "packaging"]


def _of_extra(extra: str, python: str) -> Iterator[str]:
    there = {"extra": extra, "python_version": python, "python_full_version": f"{python}.0"}
    for text in requires("safeloader") or ():
        one = Requirement(text)
        if one.name in NOT_NEEDED | {"torch"} or (one.marker and not one.marker.evaluate(there)):
            continue
        if one.name == "safeloader":
            for other in one.extras:
                yield from _of_extra(other, python)
        else:
            yield f"{one.name}{one.specifier}"


def prepare(row: Row, folder: Path) -> Path | None:
    """The environment of a pair, made once; None where it cannot be had, and then the row says why."""
    assert row.path is not None
    python = folder / "bin" / "python"
    done = folder / "complete"
    if done.exists():
        return python
    print(f"Python {row.python} with torch {row.torch}: setting up ...", flush=True)
    wanted = "torch" if row.torch == "newest" else f"torch=={row.torch}.*"
    for command in (
        [row.path, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", wanted, *requirements(row.python)],
    ):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or [ended.stderr[-200:]]
            row.came = f"cannot be set up: {last[-1].strip()}"
            return None
    done.touch()
    return python


def run(row: Row, python: Path, tests: list[str], log: Path) -> None:
    """Run the tests of a pair."""
    names = {name: value for name, value in os.environ.items() if not name.startswith("SAFELOADER_")}
    environment = names | {"PYTHONPATH": str(ROOT)}
    code = "import platform, torch; print(platform.python_version(), torch.__version__)"
    asked = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False, env=environment)
    row.was = " with torch ".join(asked.stdout.split()) or "torch cannot be imported"
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    with log.open("w", encoding="utf-8") as file:
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False)
    said = re.findall(r"^=* ?(\d+ (?:passed|failed|skipped|error).*?) ?=*$", log.read_text(encoding="utf-8"), re.M)
    row.failed = ended.returncode != 0
    row.came = said[-1] if said else f"pytest ended with {ended.returncode}: {log.name}"


def table(made: list[Row]) -> str:
    """What came of all pairs, as Markdown."""
    head = "| Python | torch | ran | came of it |\n|---|---|---|---|\n"
    return head + "".join(f"| {r.python} | {r.torch} | {r.was or '-'} | {r.came} |\n" for r in made)


def main() -> int:
    """See the module's description."""
    parser = argparse.ArgumentParser(prog="python -m tools.matrix", description=__doc__)
    parser.add_argument("--only", help="a regular expression of pairs, as 3.12-newest")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the environments are (%(default)s)")
    parser.add_argument("--list", action="store_true", help="say what there is to run, and end")
    parser.add_argument("tests", nargs="+", help="tests, and options of pytest after --")
    asked = parser.parse_args()
    made = rows(asked.only)
    if asked.list:
        print("\n".join(f"{row.python}-{row.torch}: {row.path or 'not here'}" for row in made))
        return 0
    asked.folder.mkdir(parents=True, exist_ok=True)
    for row in made:
        name = f"py{row.python}-torch{row.torch}"
        python = prepare(row, asked.folder / name) if row.path is not None else None
        if python is not None:
            print(f"Python {row.python} with torch {row.torch}: testing ...", flush=True)
            run(row, python, asked.tests, asked.folder / f"{name}.log")
            print(f"  {row.was}: {row.came}", flush=True)
    (asked.folder / "RESULTS.md").write_text(table(made), encoding="utf-8")
    print("\n" + table(made))
    return 1 if any(row.failed for row in made) else 0


if __name__ == "__main__":
    sys.exit(main())
