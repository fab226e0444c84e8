"""Where FFCV is missing: safeloader is whole, and the wrapper's error says how to install it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.runtime.harness import ROOT, environment

WITHOUT = "import sys; sys.modules['ffcv'] = None\n"


def said(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_and_what_needs_no_ffcv_can_be_imported() -> None:
    assert (
        said(
            WITHOUT + "import safeloader, safeloader.ffcv as f\n"
            "from safeloader.ffcv import Beton, ProgressiveResize, check, Loader\n"
            "print(ProgressiveResize([(0, 96)]).size_at(4))"
        )
        == "96\n"
    )


def test_the_error_says_how_to_install_it() -> None:
    told = said(
        WITHOUT + "from safeloader.ffcv import Loader\nfrom safeloader.errors import FFCVMissingError\n"
        "try: Loader('x.beton', 8)\nexcept FFCVMissingError as e: print(isinstance(e, ImportError), e)"
    )
    assert told.startswith("True")
    for word in ("make ffcv", "apt-get install", "libturbojpeg0-dev", "pip install ffcv==1.0.2"):
        assert word in told


SUITE = (
    WITHOUT
    + """
import pytest
options = ["-q", "-rs", "-p", "no:cacheprovider", "-W", "ignore", "-k", "f16"]
sys.exit(pytest.main([*options, "tests/ffcv/test_matrix.py"]))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "status"), [("false", 0), ("true", 1)])
def test_the_tests_are_skipped_with_the_reason_and_in_ci_that_is_a_failure(ci: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SUITE], capture_output=True, text=True, timeout=110, check=False, env=environment(CI=ci)
    )
    assert done.returncode == status, done.stdout
    assert ("1 error" if status else "1 skipped") in done.stdout
    assert "FFCV is not installed: run make ffcv" in done.stdout


@pytest.fixture
def install_ffcv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_ffcv", ROOT / "tools" / "install_ffcv.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("apt", [True, False])
def test_without_the_right_to_install_packages_the_reason_is_kept_for_the_skipped_tests(
    install_ffcv: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apt: bool
) -> None:
    if apt:
        (tmp_path / "apt-get").symlink_to(sys.executable)  # it is never called
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler, no sudo
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(install_ffcv, "usable", lambda: False)
    monkeypatch.setattr(install_ffcv, "REASON", tmp_path / "reason")
    assert install_ffcv.main() == 1
    told = (tmp_path / "reason").read_text()
    assert ("no right to install Debian packages; as root: apt-get install" if apt else "there is no apt-get") in told
    assert "libturbojpeg0-dev" in told
