"""The table of formats in docs/stability.md is the code's."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess

from tests.docs.pages import ROOT

_ROW = re.compile(
    r"^\| (?P<format>[^|]+) \| [^|]+ \| (?P<number>\w+) \| `(?P<module>[\w.]+)\.(?P<name>\w+)` \| [^|]+ \|$", re.M
)
_CONSTANT = re.compile(r"^_?([A-Z]+_)?(VERSION|FORMAT|MAGIC)$")


def _told() -> dict[tuple[str, str], str]:
    text = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    return {(row["module"], row["name"]): row["number"] for row in _ROW.finditer(text)}


def _held() -> set[tuple[str, str]]:
    """The constants of the code that are called as a format's number is."""
    found = set()
    for path in (ROOT / "safeloader").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            found |= {(module, t.id) for t in targets if isinstance(t, ast.Name) and _CONSTANT.match(t.id)}
    return found


def test_every_number_is_the_codes() -> None:
    told = _told()
    assert len(told) >= 15
    for (module, name), number in told.items():
        value = getattr(importlib.import_module(module), name)
        assert number == (value.decode() if isinstance(value, bytes) else str(value)), f"{module}.{name}"


def test_every_constant_is_told() -> None:
    missing = _held() - set(_told())
    assert not missing, f"docs/stability.md does not name {sorted(missing)}"


def test_every_file_of_the_package_is_there_and_current() -> None:
    for name in ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"):
        assert (ROOT / name).stat().st_size > 500, name
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## Unreleased", changes, re.M)
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z-]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert {"test", "lint", "dist", "matrix"} <= named
    assert not [rule for rule in named if not re.search(rf"^{rule}:", rules, re.M)]


def test_links_of_the_repositorys_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            if not re.match(r"(https?|mailto):", target):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_quick_tests_are_there() -> None:
    said = subprocess.run(["make", "-s", "quick-list"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = said.stdout.split()
    assert len(listed) > 15
    for one in listed:
        path, _, name = one.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, one
    for wanted in ("faults_in_a_sample", "forkserver", "portable"):
        assert any(wanted in one for one in listed), wanted
