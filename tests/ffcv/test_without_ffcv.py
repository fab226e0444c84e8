"""Where FFCV is missing: safeloader is whole, and the wrapper's error says how to install it."""

from __future__ import annotations

import subprocess
import sys

from tests.runtime.harness import environment

WITHOUT = "import sys; sys.modules['ffcv'] = None\n"


def said(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_and_what_needs_no_ffcv_can_be_imported() -> None:
    assert said(
        WITHOUT + "import safeloader, safeloader.ffcv as f\n"
        "from safeloader.ffcv import Beton, ProgressiveResize, check, Loader\n"
        "print(ProgressiveResize([(0, 96)]).size_at(4))"
    ) == "96\n"


def test_the_error_says_how_to_install_it() -> None:
    told = said(
        WITHOUT + "from safeloader.ffcv import Loader\nfrom safeloader.errors import FFCVMissingError\n"
        "try: Loader('x.beton', 8)\nexcept FFCVMissingError as e: print(isinstance(e, ImportError), e)"
    )
    assert told.startswith("True")
    for word in ("make ffcv", "apt-get install", "libturbojpeg0-dev", "pip install 'safeloader[ffcv]'"):
        assert word in told
