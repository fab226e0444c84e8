"""One table drives arguments, environment, defaults and documentation; mistakes are errors that help."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from safeloader.config import TABLE, Policy, Settings, markdown_table, resolve, settings
from safeloader.errors import SettingsError

DOC = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_fields_of_policy_and_settings_are_the_rows_of_the_table() -> None:
    rows = [row.name for row in TABLE]
    assert [f.name for f in dataclasses.fields(Policy)] == [*(r.name for r in TABLE if not r.environment_only), "pool"]
    assert [f.name for f in dataclasses.fields(Settings)] == [*rows, "sources"]


def test_every_field_of_policy_is_none_unless_given_and_documented() -> None:
    assert all(getattr(Policy(), field.name) is None for field in dataclasses.fields(Policy))
    assert all(f"{field.name}: " in (Policy.__doc__ or "") for field in dataclasses.fields(Policy))


def test_the_defaults_are_those_of_the_table_and_pass_their_own_check() -> None:
    found = resolve(environ={})
    for row in TABLE:
        assert getattr(found, row.name) == row.default
        assert found.sources[row.name] == "default"
        assert row.default is None or row.kind.check(row.default) == row.default


def test_the_promised_defaults_hold() -> None:
    found = resolve(environ={})
    assert (found.batch_timeout, found.startup_timeout) == (120.0, 300.0)
    assert (found.max_restarts, found.restart_period) == (4, 600.0)
    assert (found.fallback, found.recover_after, found.start_method) == ("inline", 1000, "spawn")
    assert (found.on_bad_sample, found.bad_sample_attempts) == ("raise", 2)
    assert (found.max_processes, found.events, found.disable, found.strict) == (None, None, False, False)


def test_an_argument_wins_over_the_environment_and_that_over_the_default() -> None:
    found = resolve(
        Policy(batch_timeout=5),
        {"SAFELOADER_BATCH_TIMEOUT": "7", "SAFELOADER_MAX_RESTARTS": "9", "HOME": "/"},
    )
    assert (found.batch_timeout, found.sources["batch_timeout"]) == (5.0, "argument")
    assert (found.max_restarts, found.sources["max_restarts"]) == (9, "SAFELOADER_MAX_RESTARTS")
    assert (found.recover_after, found.sources["recover_after"]) == (1000, "default")


def test_false_and_zero_are_given_values() -> None:
    found = resolve(
        Policy(strict=False, max_processes=0, max_restarts=0),
        {"SAFELOADER_STRICT": "1", "SAFELOADER_MAX_PROCESSES": "3", "SAFELOADER_MAX_RESTARTS": "3"},
    )
    assert (found.strict, found.max_processes, found.max_restarts) == (False, 0, 0)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("BATCH_TIMEOUT", "2.5", 2.5),
        ("BATCH_TIMEOUT", "90", 90.0),
        ("BATCH_TIMEOUT", "auto", "auto"),
        ("BATCH_TIMEOUT", "AUTO", "auto"),
        ("STARTUP_TIMEOUT", "1e3", 1000.0),
        ("MAX_RESTARTS", "0", 0),
        ("FALLBACK", "Process", "process"),
        ("ON_BAD_SAMPLE", "skip", "skip"),
        ("MAX_PROCESSES", "none", None),
        ("MAX_PROCESSES", "0", 0),
        ("START_METHOD", "forkserver", "forkserver"),
        ("STRICT", "true", True),
        ("STRICT", "1", True),
        ("STRICT", "Yes", True),
        ("STRICT", "on", True),
        ("STRICT", "off", False),
        ("DISABLE", "0", False),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("EVENTS", "/tmp/e.jsonl", "/tmp/e.jsonl"),
        ("EVENTS", "none", None),
        ("BATCH_TIMEOUT", " 3 ", 3.0),
    ],
)
def test_environment_text_becomes_a_value(name: str, text: str, value: object) -> None:
    found = resolve(environ={f"SAFELOADER_{name}": text})
    assert getattr(found, name.lower()) == value
    assert type(getattr(found, name.lower())) is type(value)
    assert found.sources[name.lower()] == f"SAFELOADER_{name}"


def test_an_empty_variable_counts_as_not_given() -> None:
    found = resolve(environ={"SAFELOADER_EVENTS": "", "SAFELOADER_BATCH_TIMEOUT": "  "})
    assert found == resolve(environ={})
    assert set(found.sources.values()) == {"default"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("BATCH_TIMEOUT", "2 minutes", 'a finite number of seconds greater than 0, or "auto"'),
        ("BATCH_TIMEOUT", "0", "greater than 0"),
        ("BATCH_TIMEOUT", "-1", "greater than 0"),
        ("BATCH_TIMEOUT", "nan", "finite"),
        ("BATCH_TIMEOUT", "inf", "finite"),
        ("BATCH_TIMEOUT", "none", "seconds"),
        ("STARTUP_TIMEOUT", "auto", "a finite number of seconds greater than 0"),
        ("MAX_RESTARTS", "2.0", "a whole number of restarts, at least 0"),
        ("RECOVER_AFTER", "0", "a whole number of batches, at least 1"),
        ("MAX_PROCESSES", "-1", "a whole number of processes, at least 0, or None"),
        ("FALLBACK", "inlin", 'did you mean "inline"?'),
        ("START_METHOD", "fork", 'never "fork"'),
        ("STRICT", "ja", "true, 1, yes, on; false, 0, no, off"),
        ("LOG_LEVEL", "warn", 'did you mean "WARNING"?'),
    ],
)
def test_a_bad_variable_is_an_error_that_says_what_is_accepted(name: str, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(environ={f"SAFELOADER_{name}": text})
    assert says in caught.value.what
    assert f"SAFELOADER_{name}={text!r} is not accepted" in caught.value.what
    assert caught.value.where == "environment"
    assert caught.value.hint.startswith("unset the variable for the default, ")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("SAFELOADER_BATCH_TIMEOT", "SAFELOADER_BATCH_TIMEOUT"),
        ("SAFELOADER_TIMEOUT", "SAFELOADER_BATCH_TIMEOUT"),
        ("SAFELOADER_LOGLEVEL", "SAFELOADER_LOG_LEVEL"),
        ("SAFELOADER_strict", "SAFELOADER_STRICT"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest_known_one(variable: str, nearest: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(environ={variable: "1"})
    assert caught.value.what == f'{variable} is not a setting of safeloader; did you mean "{nearest}"?'
    assert "SAFELOADER_EVENTS" in caught.value.hint


def test_an_unknown_variable_is_an_error_even_if_it_is_empty_and_near_nothing() -> None:
    with pytest.raises(SettingsError, match=r"^SAFELOADER_QQQQ_XYZ_QQQQ_123 is not a setting of safeloader\n"):
        resolve(environ={"SAFELOADER_QQQQ_XYZ_QQQQ_123": ""})


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("batch_timeout", 5, 5.0),
        ("batch_timeout", "auto", "auto"),
        ("batch_timeout", np.float32(2.5), 2.5),
        ("batch_timeout", np.int64(3), 3.0),
        ("max_restarts", np.int64(3), 3),
        ("max_processes", 0, 0),
        ("accelerators", True, True),
    ],
)
def test_a_policy_keeps_a_good_value_in_its_canonical_type(name: str, value: Any, kept: object) -> None:
    policy = Policy(**{name: value})
    assert getattr(policy, name) == kept
    assert type(getattr(policy, name)) is type(kept)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_timeout", True),
        ("batch_timeout", 0),
        ("batch_timeout", -1.0),
        ("batch_timeout", math.nan),
        ("batch_timeout", math.inf),
        ("batch_timeout", 10**400),
        ("batch_timeout", "60"),
        ("batch_timeout", "AUTO"),
        ("batch_timeout", np.zeros(2)),
        ("startup_timeout", "auto"),
        ("max_restarts", 2.0),
        ("max_restarts", True),
        ("max_restarts", -1),
        ("recover_after", 0),
        ("bad_sample_attempts", 0),
        ("max_processes", -1),
        ("fallback", "none"),
        ("fallback", False),
        ("on_bad_sample", ["skip"]),
        ("start_method", "fork"),
        ("strict", 1),
        ("strict", "yes"),
        ("accelerators", np.bool_(True)),
    ],
)
def test_a_policy_refuses_a_bad_value_when_it_is_made(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        Policy(**{name: value})
    row = next(row for row in TABLE if row.name == name)
    assert caught.value.what.startswith(f"{name}={value!r} is not accepted: it must be {row.kind.accepts}")
    assert caught.value.where == "Policy"


@hypothesis_settings(deadline=None)
@given(st.text(max_size=20), st.sampled_from([row.variable for row in TABLE]))
def test_any_text_in_a_variable_is_a_good_value_or_a_settings_error(text: str, variable: str) -> None:
    try:
        found = resolve(environ={variable: text})
    except SettingsError:
        pass
    else:
        row = next(row for row in TABLE if row.variable == variable)
        value = getattr(found, row.name)
        assert value is None or row.kind.check(value) == value


def test_a_policy_is_frozen_comparable_picklable_and_can_be_varied() -> None:
    policy = Policy(batch_timeout=5, fallback="off")
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.batch_timeout = 6  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(Policy(batch_timeout=5.0, fallback="off"))
    assert dataclasses.replace(policy, batch_timeout=6) == Policy(batch_timeout=6, fallback="off")


def test_a_misspelt_argument_of_policy_is_an_error() -> None:
    with pytest.raises(TypeError, match="batch_timeot"):
        Policy(batch_timeot=5)  # type: ignore[call-arg]


def test_something_else_than_a_policy_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"policy must be a safeloader\.Policy, not dict"):
        resolve({"batch_timeout": 5}, {})  # type: ignore[arg-type]


def test_settings_compare_by_value_and_survive_pickle() -> None:
    found = resolve(environ={"SAFELOADER_STRICT": "1"})
    assert found == resolve(Policy(strict=True), {})
    twin = pickle.loads(pickle.dumps(found))
    assert twin == found
    assert twin.sources == found.sources


def test_settings_read_the_environment_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELOADER_MAX_PROCESSES", "3")
    assert settings().max_processes == 3
    assert settings(Policy(max_processes=1)).max_processes == 1


@pytest.mark.parametrize(
    "imports",
    [
        "import safeloader; get = safeloader.settings",
        "import safeloader, safeloader.config; get = safeloader.settings",
        "import safeloader; safeloader.Policy; get = safeloader.settings",
        "from safeloader.config import Policy; from safeloader import settings as get",
        "from safeloader import settings as get; from safeloader.config import Policy",
    ],
)
def test_the_function_is_found_under_its_public_name_whatever_was_imported_before(imports: str) -> None:
    code = f"{imports}\nprint(type(get()).__name__, get().max_processes)"
    environ = {**os.environ, "SAFELOADER_MAX_PROCESSES": "3"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, timeout=60, check=True, env=environ,
    )  # fmt: skip
    assert done.stdout == "Settings 3\n"


def test_settings_print_as_a_table_with_units_and_sources() -> None:
    found = resolve(Policy(batch_timeout=2.5), {"SAFELOADER_MAX_RESTARTS": "1"})
    lines = str(found).splitlines()
    assert lines == found.describe().splitlines()
    assert len(lines) == 1 + len(TABLE)
    assert lines[:4] == [
        "setting              value                     from",
        "batch_timeout        2.5 s                     argument",
        "startup_timeout      300 s                     default",
        "max_restarts         1 restarts                SAFELOADER_MAX_RESTARTS",
    ]


def test_the_documented_table_is_the_one_of_the_code() -> None:
    text = DOC.read_text(encoding="utf-8")
    assert text[text.index("| Policy field") :] == markdown_table()
