"""Are the types of all public names known to a type checker that does not infer (``pyright --verifytypes``)?

    python -m tools.public_types          what is unknown or ambiguous, a line each; exit status 1 if anything is

Needs ``basedpyright``, which brings its own node. Public is what the packages below name in ``__all__``, with all that
a class of these shows. What torch and other packages leave untyped does not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = ("", ".training", ".ffcv", ".distributed", ".testing", ".metrics", ".telemetry", ".tensorboard")
ROOT = Path(__file__).resolve().parents[1]
EXTERNAL = ("Type of base class unknown", "Type of metaclass unknown")
"""Of torch's classes: no fault of ours, and not to be mended here."""
KNOWN = {"safeloader.loader.DataLoader.__iter__"}  # torch's base iterator has no types


def homes() -> set[str]:
    """The full names of all public things: where they are defined."""
    found = set()
    for package in PACKAGES:
        module = import_module(f"safeloader{package}")
        names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        for name in names:
            thing = getattr(module, name, None)
            home = getattr(thing, "__module__", module.__name__)
            found.add(f"{home}.{name}" if str(home).startswith("safeloader") else f"{module.__name__}.{name}")
    return found


def report() -> dict[str, Any]:
    """What the type checker says."""
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--ignoreexternal", "--outputjson",
         "--verifytypes", "safeloader"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=600,
    )  # fmt: skip
    if not done.stdout.strip().startswith("{"):
        raise SystemExit(f"basedpyright did not run (pip install basedpyright):\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    return told


def unknown(told: dict[str, Any]) -> list[str]:
    """A line for each public symbol whose type is not known."""
    public, lines = homes(), []
    for symbol in told["symbols"]:
        name = symbol["name"]
        owner = next((home for home in public if name == home or name.startswith(home + ".")), None)
        if owner is None or name in KNOWN or any(part.startswith("_") for part in name[len(owner) :].split(".")):
            continue
        for said in symbol["diagnostics"]:
            text = said["message"].splitlines()[0]
            if not text.startswith(EXTERNAL) and said.get("severity", "error") == "error":
                lines.append(f"{name}: {text}")
    return lines


def main() -> None:
    """Print what is unknown."""
    found = unknown(report())
    print("\n".join(found) or f"the types of all {len(homes())} public names are known")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
