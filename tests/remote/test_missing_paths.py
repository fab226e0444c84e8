"""A path that exists on the trainer's host and not on the one that looked for it is named."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safeloader import Policy
from safeloader.remote.named_paths import missing, named_paths
from safeloader.runtime.trainer.missing_paths import on_host
from tests.remote.links import AgentProgram, hosts
from tests.runtime.harness import make

ELSEWHERE = "on this host and not on that one"


class Files(torch.utils.data.Dataset[int]):
    """A number from each of some files."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return int((self.folder / str(index)).read_text())


def test_a_path_that_is_here_is_named_and_no_other(tmp_path: Path) -> None:
    here, other = tmp_path / "a b.jpg", tmp_path / "none.jpg"
    here.touch()
    wrapped = f"Caught X.\n  File '{__file__}', not found here\nFileNotFoundError: [Errno 2] No such file: '{here}'\n"
    assert on_host("far", wrapped) == f"on far; '{here}' exists {ELSEWHERE}"
    for text in (
        f'RuntimeError: "{here}" does not exist', f"OSError: cannot find {tmp_path}/, maybe",
        f"Unable to open file (name = '{here}', errno = 2, error message = 'No such file or directory')",
    ):  # fmt: skip
        assert ELSEWHERE in on_host("far", text)
    for text in (
        f"No such file: '{other}'",
        f"PermissionError: '{here}'",
        "KeyError: 'tests' not found",
        "'/\0' not found",
    ):
        assert on_host("far", text) == "on far"
    assert f"'{here}', '{tmp_path}' exist {ELSEWHERE}" in on_host("far", f"not found: '{here}', '{tmp_path}', '{here}'")


class Names:
    """Names what it needs in every way that is known."""

    def __init__(self, folder: Path) -> None:
        self.one, self.many, self.table = folder / "0", [str(folder / "1"), 7], {"a": (str(folder / "2"),)}
        self.inner = Files(folder, 8)
        self.itself = self
        self.relative = os.path.relpath(folder / "3")
        self.other = "a/b", "text", b"/", str(folder / "none"), "/\0", Path, Odd()


class Odd(os.PathLike[str]):
    """Has no name."""

    def __fspath__(self) -> str:
        raise RuntimeError("none")


def test_paths_that_a_dataset_names_are_found_and_no_other_text(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).touch()
    relative = os.path.relpath(tmp_path / "3")
    found = named_paths(Names(tmp_path))
    assert sorted(found) == sorted([*(str(tmp_path / str(number)) for number in range(3)), str(tmp_path), relative])
    (tmp_path / "1").unlink()
    assert missing(found, os.getcwd()) == [str(tmp_path / "1")]
    assert missing((relative,), "/nowhere") == [relative]
    begun = [str(tmp_path / "0")] * 10 + [str(tmp_path / "2")]
    assert named_paths(begun) == (str(tmp_path / "0"),)  # of a long list, the beginning


class Listed(torch.utils.data.Dataset[int]):
    """Needs none of the files that it lists."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(map(str, folder.iterdir()))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProgram, Path]]:
    """An agent that sees nothing of what lies in a folder."""
    folder = tmp_path_factory.mktemp("data")
    hides = "unshare", "-m", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"
    if shutil.which("unshare") is None or subprocess.run([*hides, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    for number in range(8):
        (folder / str(number)).write_text(str(number))
    with AgentProgram(prefix=hides) as agent:
        yield agent, folder


@pytest.mark.slow
def test_what_a_dataset_names_and_a_host_lacks_is_one_line_and_no_fault(
    elsewhere: Any, caplog: pytest.LogCaptureFixture
) -> None:
    agent, folder = elsewhere
    with (
        caplog.at_level(logging.WARNING, "safeloader"),
        make(Listed(folder), shuffle=False, policy=Policy(hosts=hosts(agent.address))) as loader,
    ):
        assert [row for batch in loader for row in batch.tolist()] == list(range(4))
        assert loader.report().faults == []
    (line,) = [record.getMessage() for record in caplog.records if getattr(record, "code", "") == "SL041"]
    assert f": '{folder}/0', '{folder}/1', " in line
    assert ", ... " in line


@pytest.mark.slow
def test_an_error_of_another_host_says_that_the_path_is_here(elsewhere: Any, caplog: pytest.LogCaptureFixture) -> None:
    agent, folder = elsewhere
    with (
        caplog.at_level(logging.INFO, "safeloader"),
        make(Files(folder, 8), policy=Policy(hosts=hosts(agent.address))) as loader,
    ):
        with pytest.raises(FileNotFoundError, match="No such file") as raised:
            list(loader)
        faults = loader.report().faults
    (note,) = [note for note in vars(raised.value)["__notes__"] if ELSEWHERE in note]
    assert f"'{folder}/" in note
    assert all(f"'{folder}/{fault.sample}' exists {ELSEWHERE}" in fault.detail for fault in faults)


@pytest.mark.slow
def test_samples_that_are_left_out_for_a_path_of_this_host_say_so(
    elsewhere: Any, caplog: pytest.LogCaptureFixture
) -> None:
    agent, folder = elsewhere
    policy = Policy(hosts=hosts(agent.address), on_bad_sample="skip")
    with caplog.at_level(logging.WARNING, "safeloader"), make(Files(folder, 8), policy=policy) as loader:
        assert list(loader) == []
    told = [record.getMessage() for record in caplog.records if ELSEWHERE in record.getMessage()]
    assert {number for number in range(8) if any(f"'{folder}/{number}'" in text for text in told)} == set(range(8))
