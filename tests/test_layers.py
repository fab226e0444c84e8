"""The layers point one way: every import, late and for types only too, goes down or stays in its package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import house


def test_no_import_points_up_no_files_import_each_other_none_reaches_into_another_package_none_is_long() -> None:
    found = house.violations(house.modules())
    assert not found, (
        "let the import point down, or pass what is needed as an argument; move one idea of a long file into one of its own"
    )


def test_every_file_has_a_layer_and_every_layer_has_files() -> None:
    packages = {house.place(name).package for name in house.modules()}
    assert packages == {package for layer in house.LAYERS for package in layer}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    texts = {
        "__init__": "",
        "errors": "def f():\n    from .core.messages import Lease\n",
        "core/__init__": "",
        "core/messages": "import math\n",
        "core/fleet": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .deadlines import Watch\n",
        "core/deadlines": "import safeloader.core.fleet\nfrom . import messages\n",
        "ffcv/__init__": "from ..training import safe_types\nx = loader._safe\n",
        "training/__init__": "",
        "training/safe_types": "from ..core.messages import Lease\nx = loader.safe\n" + "\n" * 348,
        "observe/__init__": "\n" * 351,
    }
    for name, text in texts.items():
        path = tmp_path / "safeloader" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.modules(tmp_path)


def test_late_imports_imports_for_types_siblings_and_inner_parts_count(files: dict[str, Path]) -> None:
    assert house.violations(files) == [
        "up: errors -> core.messages",
        "up: ffcv -> training.safe_types",
        "circle: core.deadlines core.fleet",
        "reach: ffcv ._safe",
        "long: observe 351",
    ]


def test_a_file_without_a_layer_is_an_error() -> None:
    assert house.place("observe.format.more").layer == 0, "the longest name counts"
    assert house.place("observe.formatual").layer == 2
    with pytest.raises(LookupError, match="in no layer"):
        house.place("nowhere.at_all")
