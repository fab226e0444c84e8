"""``make dist``: builds the sdist and the wheel, and checks them as the one who installs them would.

1. ``python -m build`` makes the sdist, and the wheel from the sdist.
2. ``twine check --strict`` looks at what an index would show.
3. The wheel holds the package whole and nothing else; the sdist has what the tests need.
4. The wheel is installed with pip, without the constraints file, where torch and numpy are and nothing else; a loader
   runs outside of the checkout, is compared with torch, and survives a kill. So does ``safeloader demo``, unless
   ``--no-demo``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import safeloader
from tools import bare

ROOT = Path(__file__).resolve().parents[1]


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def run(*command: str | Path, **more: str) -> None:
    """Run a command; an error ends everything.

    Args:
        command: its words.
        more: what its environment has besides; PYTHONPATH is left out of it.
    """
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folder = more.pop("cwd", str(ROOT))
    subprocess.run([str(word) for word in command], check=True, cwd=folder, env=plain | more)


def build(out: Path) -> tuple[Path, Path]:
    """The sdist and the wheel."""
    shutil.rmtree(out, ignore_errors=True)
    # From a folder outside of the checkout, where `build` is no folder of ours; what setuptools leaves is removed.
    with tempfile.TemporaryDirectory() as elsewhere:
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=elsewhere)
    for left in (ROOT / "build", *ROOT.glob("*.egg-info")):
        if left.name != "safeloader.egg-info":  # the editable install's
            shutil.rmtree(left, ignore_errors=True)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def quick_wheel(folder: Path) -> Path:
    """A wheel of this tree without `build`.

    From a copy: setuptools leaves a folder behind, and puts what is old in it into the next wheel.
    """
    tree = folder / "tree"
    tree.mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "safeloader", tree / "safeloader", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "PROJECT_URL": "https://example.org/owner/safeloader"}
    subprocess.run(
        [*command, "-w", folder, tree], check=True, timeout=100, env=environment, capture_output=True, cwd=ROOT
    )
    return next(folder.glob("*.whl"))


def package_files() -> set[str]:
    """What the wheel's package must consist of: what lies in the folder."""
    kinds = {".py", ".typed"}
    return {str(p.relative_to(ROOT)) for p in (ROOT / "safeloader").rglob("*") if p.is_file() and p.suffix in kinds}


def check_contents(sdist: Path, wheel: Path) -> None:
    """The right files, and the version of the one place.

    Raises:
        SystemExit: something is missing or too much.
    """
    info = f"safeloader-{safeloader.__version__}.dist-info"
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = package_files()
    code = {name for name in inside if not name.startswith(info)}
    if code != expected:
        sys.exit(f"the wheel lacks {sorted(expected - code)} and has {sorted(code - expected)} too much")
    if f"{info}/licenses/LICENSE" not in inside:
        sys.exit("the wheel lacks the licence")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "CHANGELOG.md", "SECURITY.md", "setup.py", "tests/conftest.py", "docs/settings.md", "Makefile"}
    if missing := wanted - names:
        sys.exit(f"the sdist lacks {sorted(missing)}")


def smoke(python: Path, folder: Path) -> None:
    """A loader in the bare environment, outside of the checkout."""
    shutil.copy(ROOT / "tools" / "smoke.py", folder / "smoke.py")
    run(python, folder / "smoke.py", folder, cwd=str(folder))
    run(python, "-m", "safeloader", "--version", cwd=str(folder))


def main() -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(prog="python -m tools.dist", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--no-demo", action="store_true", help="do not run `safeloader demo` from the wheel")
    asked = parser.parse_args()
    sdist, wheel = build(asked.out.resolve())
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    check_contents(sdist, wheel)
    with tempfile.TemporaryDirectory(prefix="safeloader-dist-") as name:
        folder = Path(name)
        say("Installing the wheel where torch and numpy are, and nothing else ...")
        python = bare.make(folder / "env", ["torch", "numpy"], pip=True)
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=name)
        smoke(python, folder)
        if not asked.no_demo:
            run(python, "-m", "safeloader", "demo", cwd=name)
    say(f"{sdist.name} and {wheel.name} are good: {asked.out}")


if __name__ == "__main__":
    main()
