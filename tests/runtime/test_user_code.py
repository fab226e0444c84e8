"""Which code is the user's, wherever packages are installed."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch

from safeloader.remote.node import likeness
from safeloader.runtime.start.preload import installed
from safeloader.runtime.user_code import is_users


@pytest.mark.parametrize("kind", ["site-packages", "dist-packages"])
def test_a_package_in_a_folder_that_a_pth_file_names_is_not_the_users(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "another" / "lib" / kind
    elsewhere.mkdir(parents=True)
    (elsewhere / "from_elsewhere.py").write_text("import json\nimport textwrap\n")
    (tmp_path / "the_users.py").write_text("import from_elsewhere\nimport json\n")
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("the_users")
    assert is_users(own.__file__ or "")
    assert not is_users(own.from_elsewhere.__file__)
    imported = set(installed(["the_users"]))
    assert {"from_elsewhere", "json"} <= imported, "by a fork server"
    assert not imported & {"textwrap", "the_users"}, "of what is installed it looks no further"
    compared = likeness(with_sources=True).sources
    assert "the_users" in compared and "from_elsewhere" not in compared


def test_python_installed_packages_and_safeloader_are_not_the_users() -> None:
    for path in (os.__file__, torch.__file__, torch.utils.data.__file__, is_users.__code__.co_filename, "<frozen os>"):
        assert not is_users(path)
    assert is_users(__file__)
    assert not is_users(__file__ + "c"), "a source file is"
