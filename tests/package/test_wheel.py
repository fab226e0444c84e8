"""The wheel, and a loader from it where only its requirements are."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest

import safeloader
from setup import addresses, shown
from tests.package.conftest import ROOT

Outside = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "safeloader").rglob("*") if p.suffix in (".py", ".typed")}
    assert inside == there


def test_the_metadata_is_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        said = message_from_bytes(archive.read(f"safeloader-{safeloader.__version__}.dist-info/METADATA"))
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert said["Version"] == safeloader.__version__
    assert said["License-Expression"] == "BSD-3-Clause"
    assert said["Author"] == "safeloader developers"
    required = [
        one.split(";")[0].split(">")[0].split("<")[0] for one in said.get_all("Requires-Dist", []) if ";" not in one
    ]
    assert required == ["torch", "numpy", "cloudpickle", "click", "tqdm"]
    assert "all" in said.get_all("Provides-Extra", [])
    pages = said.get_payload()
    assert isinstance(pages, str)
    assert "](docs/" not in pages, "a link that leads nowhere on an index"
    assert "](https://example.org/owner/safeloader/blob/HEAD/docs/" in pages


def test_what_an_index_shows_has_no_relative_link() -> None:
    page = "A [page](docs/a.md#b), ![the picture](docs/p.svg), <!-- hidden -->[out](https://example.com)."
    assert shown(page, "https://example.org/x/") == (
        "A [page](https://example.org/x/blob/HEAD/docs/a.md#b), ![the picture](https://example.org/x/raw/HEAD/docs/p.svg), "
        "[out](https://example.com)."
    )
    assert shown(page, None) == "A page, *the picture*, [out](https://example.com)."
    assert addresses(None) == {}, "an address that nobody gave is not made up"


def test_the_version_is_written_once() -> None:
    places = ["pyproject.toml", "setup.py", "CITATION.cff", "docs/conf.py", "README.md"]
    assert not [place for place in places if safeloader.__version__ in (ROOT / place).read_text(encoding="utf-8")]
    assert f"Unreleased: {safeloader.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_loader_runs_where_only_the_requirements_are(outside: Outside, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tools" / "smoke.py", tmp_path)
    done = outside(tmp_path / "smoke.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 batches equal torch's" in done.stdout
    assert str(ROOT) not in done.stdout, "this is the checkout's, not the wheel's"


@pytest.mark.parametrize("package", ["rich", "psutil", "PIL", "matplotlib"])
def test_the_bare_environment_is_bare(outside: Outside, package: str) -> None:
    assert "ModuleNotFoundError" in outside("-c", f"import {package}").stderr


@pytest.mark.parametrize("command", ["demo", "run", "audit", "doctor", "bisect", "top", "trace", "beton", "bench"])
def test_every_command_is_there_and_says_what_it_needs(outside: Outside, command: str) -> None:
    done = outside("-m", "safeloader", command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Example: safeloader {command}" in done.stdout
