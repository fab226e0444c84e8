"""FFCV or a visible reason; one file of images for all; one folder of compiled code for all."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PURE = ("test_resize.py", "test_backends.py", "test_without_ffcv.py", "test_ranks.py", "test_leases.py", "test_docs.py")


def why_not() -> str:
    """Why FFCV cannot be used here; "" if it can."""
    if importlib.util.find_spec("ffcv") is None:
        told = Path(sys.prefix, ".ffcv-reason")
        return f"FFCV is not installed: {told.read_text() if told.exists() else 'run make ffcv'}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from safeloader.ffcv.require import require

            require()
    except ImportError as reason:
        return str(reason)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.parent.name == "ffcv" and item.path.parent.parent.name == "tests"]
    for item in ours:
        if item.path.name not in PURE:
            item.add_marker(pytest.mark.ffcv)


@pytest.fixture(scope="session")
def ffcv_is_here() -> None:
    """Skip with the reason; in CI a skip is a failure."""
    reason = why_not()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def needs_ffcv(request: pytest.FixtureRequest) -> None:
    """What is marked has FFCV, and a folder for compiled code."""
    if request.node.get_closest_marker("ffcv") is not None:
        request.getfixturevalue("compiled_code")


@pytest.fixture(scope="session")
def compiled_code(ffcv_is_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for what is compiled, for this process and all that it starts."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"  # one for all of xdist's
    folder.mkdir(exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    yield folder
    del os.environ["NUMBA_CACHE_DIR"]


@pytest.fixture(scope="session")
def beton(ffcv_is_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 JPEG images of 40 to 72 pixels, with their index as label, a float and an array."""
    from tests.ffcv.data import Photographs, write_file

    path = tmp_path_factory.mktemp("beton") / "photographs.beton"
    write_file(path, Photographs(120))
    return path


@pytest.fixture
def make(beton: Path) -> Iterator[Callable[..., Any]]:
    """Makes loaders in the trainer over that file, and closes them."""
    from safeloader import Policy
    from safeloader.ffcv import Loader
    from tests.ffcv.data import pipelines

    made: list[Any] = []

    def make(path: Path | None = None, batch_size: int = 10, mode: str = "trainer", **options: Any) -> Any:
        rules: dict[str, Any] = {
            "ffcv_mode": mode,
            "fallback": "off",
            "batch_timeout": 20.0,
            **options.pop("rules", {}),
        }
        options = {"num_workers": 1, "order": "RANDOM", "seed": 3, "name": "train", **options}
        if "pipelines" not in options:
            options["pipelines"] = pipelines()
        made.append(Loader(path or beton, batch_size, policy=Policy(**rules), **options))
        return made[-1]

    yield make
    for loader in made:
        loader.close()
