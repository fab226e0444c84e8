"""Every program in README.md and docs/ runs, and every command there is one."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from benchmarks.hangs.scenario import names
from safeloader.cli import main
from tests.docs.pages import ROOT, commands, pages, read
from tests.programs import run

_WITH_PROGRAM = [page for page in pages() if read(page).program]
_WITH_COMMANDS = [page for page in pages() if commands(page)]
_NEEDS = {"docs/metrics.md": ("prometheus_client",), "docs/migrating.md": ("lightning", "accelerate")}
_STRICT = ["-W", "error::UserWarning", "-W", "ignore:This DataLoader will create:UserWarning"]  # on few processors
_WARNS = {"docs/migrating.md"}  # Lightning and Accelerate do
_FIRST = (
    "README.md",
    "docs/quick-start.md",
)  # run just as they stand; in the others processes are forked, which is quick


@pytest.mark.parametrize("path", _WITH_PROGRAM)
def test_the_programs_of_a_page_run(path: str, tmp_path: Path) -> None:
    for package in _NEEDS.get(path, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    page = read(path)
    program = tmp_path / "page.py"
    program.write_text(page.program, encoding="utf-8")
    done = run(
        *([] if path in _WARNS else _STRICT), str(program),
        seconds=110, cwd=tmp_path, TMPDIR=str(tmp_path),
        SAFELOADER_MAX_PROCESSES="2",  # a page may show eight; the bytes are the same
        **({} if path in _FIRST else {"SAFELOADER_START_METHOD": "forkserver"}),
    )  # fmt: skip
    assert done.code == 0, f"{path}, where line numbers are the page's:\n{done.err}"
    for text in page.prints:
        assert text in done.out, f"{path} says that {text!r} is printed; it prints:\n{done.out}"


def test_a_program_that_is_not_run_says_why() -> None:
    reasons = [why for page in pages() for why in read(page).not_run]
    assert all(len(why.split()) >= 4 for why in reasons), reasons


@pytest.mark.parametrize("path", _WITH_COMMANDS)
def test_the_commands_of_a_page_are_commands(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands(path):
        words = shlex.split(command.replace("...", ""))
        if words[0] == "safeloader":
            _parsed(words[1:])
        elif words[0] == "make":
            rules = (ROOT / "Makefile").read_text(encoding="utf-8")
            for rule in (word for word in words[1:] if "=" not in word):
                assert re.search(rf"^{re.escape(rule)}:", rules, re.M), f"{command}: no such rule"
        elif words[0] == "pip":
            _extras_exist(words)
        elif words[:2] == ["python", "-m"]:
            assert _is_module(words[2]), f"{command}: no such module"


def _parsed(words: list[str]) -> None:
    """The options and arguments are accepted; files that it names are made first."""
    if not words or words[0].startswith("-") or words[0].isupper():
        return
    command = main.commands[words[0]]
    for word in words[1:]:
        if word.endswith((".py", ".jsonl")):
            Path(word).touch()
    if len(words) == 1 and any(p.required for p in command.params if isinstance(p, click.Argument)):
        return  # the bare name
    if "--help" in words:
        assert command.get_help(click.Context(command, info_name=words[0]))
        return
    command.make_context(words[0], words[1:])


def _extras_exist(words: list[str]) -> None:
    wanted = {extra for word in words for found in re.findall(r"\[([^]]+)\]", word) for extra in found.split(",")}
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    for extra in wanted:
        assert re.search(rf"^{re.escape(extra)} = \[", told, re.M), f"no extra {extra}"


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file() or name in ("sphinx", "http.server")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_each_command_has_help_with_an_example(name: str) -> None:
    command = main.commands[name]
    text = command.get_help(click.Context(command, info_name=f"safeloader {name}"))
    assert f"safeloader {name}" in text.partition("Example")[2], text


def test_the_reference_has_every_public_package() -> None:
    """What a package's part does not name, docs/conf.py adds."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for package in ("", ".training", ".ffcv", ".distributed", ".testing", ".metrics", ".telemetry", ".tensorboard"):
        assert f"\n## safeloader{package}\n" in text, package


def test_the_catalogue_names_every_scenario_and_no_other() -> None:
    text = (ROOT / "docs" / "hang-catalogue.md").read_text(encoding="utf-8")
    told = {name for row in re.findall(r"^\|.*\| ([^|]*) \|$", text, re.M) for name in re.findall(r"`(\w+)`", row)}
    told |= set(re.findall(r"^`(\w+)` is the control", text, re.M))
    known = set(names())
    assert known <= told, known - told
    in_last_column = told - known - {"sample_rng"}
    assert not in_last_column, in_last_column
