"""``safeloader bench``: the benchmarks, where they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

__all__ = ["bench"]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: safeloader bench hangs --quick     safeloader bench speed --help",
)
@click.argument("kind", type=click.Choice(["hangs", "speed"]))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(kind: str, arguments: tuple[str, ...]) -> None:
    """Run the benchmarks: hangs (every known way for a loader to hang) or speed (throughput, memory, recovery).

    ARGUMENTS go to the benchmark. They are in the source tree and not part of the installed package. The exit status
    is the benchmark's.
    """
    root = _root()
    line = [sys.executable, "-m", f"benchmarks.{kind}", *arguments]
    try:
        sys.exit(subprocess.run(line, cwd=root, check=False).returncode)
    except KeyboardInterrupt:  # the benchmark got it, too, and has ended
        sys.exit(130)


def _root() -> Path:
    """The source tree: the one that this package was installed from in place, or the current directory."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "benchmarks" / "hangs" / "__main__.py").is_file() and (folder / "safeloader").is_dir():
            return folder
    raise click.ClickException(
        "the benchmarks are not part of the installed package: clone the repository, and run this in its folder "
        "(or make bench-hangs, make bench-speed, which set everything up)"
    )
