"""Every message has a code: one table, one page, nothing without a code, and no code twice."""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from safeloader import codes, errors
from safeloader.code_table import SECTIONS, TABLE, page
from safeloader.fault_plan import ChaosError
from safeloader.observe import events
from safeloader.observe.events import Happening
from safeloader.observe.log import tell
from safeloader.observe.messages import code_of
from tests.api.test_messages import LINES

ROOT = Path(__file__).resolve().parents[2]
GIVEN = Path(__file__).with_name("codes_given.txt")
PACKAGE = [path for path in (ROOT / "safeloader").rglob("*.py") if "code_tables" not in path.parts]
ERRORS = [*(getattr(errors, name) for name in errors.__all__), ChaosError]
NEED_ONE_EACH = {"SafeLoaderError"}  # its own code says nothing


def test_the_page_is_the_table() -> None:
    stale = "python -m safeloader.code_table > docs/messages.md"
    assert (ROOT / "docs" / "messages.md").read_text(encoding="utf-8") == page(), stale


def test_each_row_has_a_code_of_its_own_and_says_what_it_means_and_what_to_do() -> None:
    rows = [row for _, rows in SECTIONS for row in rows]
    assert len(rows) == len(TABLE)
    for row in rows:
        assert re.fullmatch(r"SL\d{3}", row.code), row
        assert row.says and row.means.endswith((".", "`")) and row.do.endswith("."), row
        assert f"\n### {row.code}\n" in page()


def test_a_code_is_never_given_to_another_message() -> None:
    """The file has each code that was ever given. A reworded message may change its line there, a new one adds one."""
    told = dict(line.split(" ", 1) for line in GIVEN.read_text(encoding="utf-8").splitlines())
    assert told == {code: row.says for code, row in sorted(TABLE.items())}


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"SL\d{3}", node.value):
            yield node.value


def test_the_code_uses_what_the_table_has_and_nothing_else() -> None:
    used = {code for path in PACKAGE for code in _strings(ast.parse(path.read_text(encoding="utf-8")))}
    assert used <= set(TABLE), used - set(TABLE)
    unused = {row.code for row in TABLE.values() if not row.retired} - used
    assert not unused, f"no message has it any more, so it is retired: {unused}"


def test_nothing_is_logged_or_warned_of_but_with_a_code() -> None:
    found = []
    for path in PACKAGE:
        if path.name == "codes.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                if call == "warnings.warn" or re.search(r"log(ger)?\.(debug|info|warning|error|exception|log)$", call):
                    found.append(f"{path}:{node.lineno}: {call}")
    assert found == []


def test_each_class_of_errors_has_a_code_and_a_bare_error_is_given_one() -> None:
    own = [cls.__dict__["code"] for cls in ERRORS]
    assert len(set(own)) == len(own)
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in NEED_ONE_EACH:
                assert "code" in {word.arg for word in node.keywords}, f"{path}:{node.lineno}"


def test_each_happening_has_a_code() -> None:
    kinds = {getattr(events, name) for name in events.__all__}
    kinds = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Happening) and kind is not Happening}
    assert {type(event) for event, _ in LINES.values()} >= kinds
    assert {code_of(event) for event, _ in LINES.values()} <= set(TABLE)


def test_a_line_ends_with_its_code_and_the_record_has_it(caplog: pytest.LogCaptureFixture) -> None:
    event, line = LINES["hung"]
    with caplog.at_level(logging.DEBUG, "safeloader"):
        tell(event)
        codes.log_warning("SL113", "say %s", "so")
    assert caplog.messages == [f"{line} [SL003]", "say so [SL113]"]
    assert [record.code for record in caplog.records] == ["SL003", "SL113"]  # type: ignore[attr-defined]
    assert caplog.records[1].filename == Path(__file__).name


def test_a_warning_ends_with_its_code_and_points_at_its_place() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        codes.warn("SL103", "preload has no effect")
    assert str(warned[0].message) == "preload has no effect [SL103]"
    assert warned[0].filename == __file__


def test_an_error_has_the_code_of_its_class_or_its_own_and_keeps_it() -> None:
    error = errors.StartError("no", code="SL213")
    assert error.code == "SL213"
    assert str(error).splitlines()[-1] == "  code:    SL213"
    assert errors.StartError("no").code == errors.StartError.code == "SL212"
