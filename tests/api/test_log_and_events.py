"""What happens is told once in the log and once in the file of events; telling it never hurts training."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from safeloader.config import resolve
from safeloader.observe import Fault, Recorder
from safeloader.observe.event_file import as_record
from safeloader.observe.stall import Stall, StallPlace

if TYPE_CHECKING:
    from collections.abc import Iterator

DOC = Path(__file__).parents[2] / "docs" / "events.md"
NOON = 1763694764.0


@pytest.fixture(autouse=True)
def _the_logger_is_left_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("safeloader")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


def fault(cause: str = "died", **more: Any) -> Fault:
    """The fault that the tests talk about, with some facts replaced."""
    about = Fault(NOON, "train", cause, worker=1, process=4711, epoch=0, batch=12, sample=392)
    return dataclasses.replace(about, **more)


def recorder(events: object = "none", **more: Any) -> Recorder:
    return Recorder("train", resolve(environ={"SAFELOADER_EVENTS": str(events)}), workers=4, **more)


def live_through_everything(told: Recorder) -> None:
    told.started(4711, [1], 1.9)
    told.resumed(told.fault(fault(detail="SIGKILL", action="restarted")), 2.13)
    told.started(4712, [1], 1.9)
    told.fell_back(4, 2, "too many faults")
    told.resized(1, 128, 160, 0.03)
    told.recovered(2, 4)
    told.stays(4)
    told.slow(13, 0, 131.0, 7)
    told.stalled(Stall("loader", 300.0, True, StallPlace("train.py:88 in step", "stack")))
    told.stall_ended(412.0)
    told.ranks_stalled("rank 1 waits", [1], "waits")
    told.skipped(0, 12, 392, "died")
    told.replayed(1, 0, "same", "beginning", 12, 12, 12, "", "goes on")
    told.code_changed(["photos.py"])
    told.reopened(["dataset.file (/data/a.bin, at byte 0)"])
    told.unshadowed("it holds a connection (socket)")
    told.not_undone(0, "os.nice(5)", "moved to a process")
    told.differs(4712, ["the limit RLIMIT_NOFILE was 1024, and cannot be raised above 64 any more"])
    told.slow_start(4713, 12.0, "it imports torch", None)
    told.epoch(0, 18_500)
    told.closed()


# ---------------------------------------------------------------- the log


def test_each_happening_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told = recorder()
    told.batches = 18_500
    with caplog.at_level(logging.DEBUG, "safeloader"):
        live_through_everything(told)
        told.closed()
    assert [record.name for record in caplog.records] == ["safeloader"] * 22
    assert caplog.messages[-1] == "train: closed after 18,500 batches in 1 epoch, with 1 fault, 2.1 s lost [SL018]"


def test_a_file_that_changed_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    told = recorder()
    told.code_changed(["a.py"])
    told.code_changed(["a.py", "b.py"])
    told.code_changed(["b.py"])
    assert [record.getMessage().split(": ")[2].split(";")[0] for record in caplog.records] == ["a.py", "b.py"]
    assert told.report().code_changed == ["a.py", "b.py"]


def test_slow_batches_are_all_counted_but_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    told = recorder()
    for batch in range(100):
        told.slow(batch, 0, 130.0, None)
    assert len(caplog.records) == 7  # the 1st, 2nd, 4th, ..., 64th
    assert told.report().slow_batches == 100


PROGRAM = """
import logging, os
{setup}
from safeloader.observe import Fault, Recorder
from safeloader.config import settings
told = Recorder("train", settings())
Recorder("val", settings())
{later}
told.fault(Fault(0.0, "", "died", worker=1, detail="SIGKILL", action="restarted"))
told.resumed(0, 2.0)
"""
FAULT_LINE = "train: worker 1 was killed by SIGKILL while no batch was in work; a new process takes over [SL001]"


def stderr_of(setup: str = "", later: str = "", **environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup, later=later)],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, **environ},
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_program_without_logging_sees_warnings_with_date_and_level_on_stderr() -> None:
    (line,) = stderr_of()
    assert line[19:] == f" safeloader WARNING: {FAULT_LINE}"
    time.strptime(line[:19], "%Y-%m-%d %H:%M:%S")


def test_a_program_that_configured_logging_sees_each_line_once_in_its_own_format() -> None:
    assert stderr_of(setup="logging.basicConfig(format='mine %(message)s')") == [f"mine {FAULT_LINE}"]
    assert stderr_of(later="logging.basicConfig(format='mine %(message)s')") == [f"mine {FAULT_LINE}"]


def test_a_handler_on_our_logger_alone_is_enough() -> None:
    setup = "log = logging.getLogger('safeloader'); log.addHandler(logging.StreamHandler())"
    assert stderr_of(setup=setup) == [FAULT_LINE]
    setup += "; log.propagate = False"
    assert stderr_of(setup=setup) == [FAULT_LINE]


def test_the_programs_level_holds_unless_one_is_given() -> None:
    info = "logging.basicConfig(level='INFO', format='%(levelname)s')"
    assert stderr_of(setup=info) == ["WARNING", "INFO"]
    assert stderr_of(setup=info, SAFELOADER_LOG_LEVEL="warning") == ["WARNING"]
    assert stderr_of(setup="logging.getLogger('safeloader').setLevel('ERROR')") == []


def test_a_given_level_shows_more_without_any_logging_setup() -> None:
    lines = stderr_of(SAFELOADER_LOG_LEVEL="INFO")
    assert lines[1][19:] == " safeloader INFO: train: batches come again; fault 1 cost 2.0 s; no batch is lost [SL012]"


def test_a_program_without_stderr_trains_on() -> None:
    assert stderr_of(later="import sys; sys.stderr = None") == []


# ---------------------------------------------------------------- the file of events


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_happening_is_one_line_of_json_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    path = tmp_path / "events.jsonl"
    path.write_text('{"v":1,"older":true}\n')
    told = recorder(path, clock=lambda: 5.0)
    number = told.fault(fault(detail="SIGKILL", stack="line\nline"))
    told.started(4712, range(2), 1.5)
    told.resumed(number, 2.5)
    told.closed()
    older, *events = lines_of(path)
    assert older == {"v": 1, "older": True}
    assert [event["event"] for event in events] == ["fault", "restart", "resume", "close"]
    assert events[1] == {
        "v": 1, "t": 5.0, "loader": "train", "event": "restart", "trainer": os.getpid(),
        "process": 4712, "workers": [0, 1], "seconds": 1.5,
    }  # fmt: skip
    assert events[0]["t"] == NOON
    assert events[0]["stack"] == "line\nline"


def test_the_rank_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert as_record(fault())["rank"] == 3
    monkeypatch.setenv("RANK", "captain")
    assert "rank" not in as_record(fault())


def test_indices_of_any_kind_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    told = recorder(path)
    told.fault(
        fault(
            indices=[
                np.int64(3),
                (1, "a"),
                "s",
                math.nan,
                {"k": 2},
                2.5,
                np.float32(0.5),
                Path("a\nb"),
                True,
                None,
            ],
            sample=np.int64(3),
        )
    )
    (event,) = lines_of(path)
    assert event["sample"] == 3
    assert event["indices"] == [
        3, [1, "a"], "s", None, {"k": 2}, 2.5, 0.5, "a b", True, None,
    ]  # fmt: skip


def test_the_documentation_of_events_names_exactly_the_events_and_keys_that_are_written(
    tmp_path: Path,
) -> None:
    sections = DOC.read_text(encoding="utf-8").split("\n### `")[1:]
    documented = {
        part.split("`")[0]: {row.split("`")[1] for row in part.split("\n## ")[0].splitlines() if row[:3] == "| `"}
        for part in sections
    }
    traced = {"SAFELOADER_EVENTS": str(tmp_path / "events.jsonl"), "SAFELOADER_TRACE": "1"}
    told = Recorder("train", resolve(environ=traced), workers=4)
    told.pulse.asks()
    told.pulse.got()
    live_through_everything(told)
    written = {
        event["event"]: set(event) - {"v", "t", "loader", "event", "trainer", "rank"}
        for event in lines_of(tmp_path / "events.jsonl")
    }
    assert documented == written


def test_every_event_is_as_the_schema_in_the_documentation_says(tmp_path: Path) -> None:
    import jsonschema

    from safeloader.observe.schema import schema

    written = json.loads(DOC.with_name("events.schema.json").read_text(encoding="utf-8"))
    stale = "python -m safeloader.observe.schema > docs/events.schema.json"
    today = schema()
    assert {**written, "allOf": []} == {**today, "allOf": []}, stale
    assert all(kind in written["allOf"] for kind in today["allOf"]), stale
    traced = {"SAFELOADER_EVENTS": str(tmp_path / "events.jsonl"), "SAFELOADER_TRACE": "1"}
    told = Recorder("train", resolve(environ=traced), workers=4)
    told.pulse.asks()
    told.pulse.got()
    told.timings.loaded(0, 1, 0.1, None)
    told.timings.delivered(0, 0.1)
    told.timings.given(0.1)
    live_through_everything(told)
    judge = jsonschema.Draft202012Validator(written)
    judge.check_schema(written)
    lines = lines_of(tmp_path / "events.jsonl")
    for line in lines:
        judge.validate(line)
        with pytest.raises(jsonschema.ValidationError):
            judge.validate(line | {"v": 2})
    wrong = next(line for line in lines if line["event"] == "restart") | {"process": "4711"}
    assert [error.json_path for error in judge.iter_errors(wrong)] == ["$.process"]


def test_the_quick_line_of_a_batch_is_what_the_slow_way_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safeloader.observe.batch_trace import BatchGiven, Tracer
    from safeloader.observe.event_file import EventFile

    monkeypatch.setenv("RANK", "3")
    file = EventFile(str(tmp_path / "events.jsonl"))
    tracer = Tracer('of "many", {all}: words', file)
    tracer.loaded(7, 2, 5, 1, 4711, 1.0, 1.25, 1.5, 4096)
    tracer.delivered(7)
    tracer.given(1.125, 1.75)
    tracer.given(2.0, 2.5)
    tracer.flush()
    offset = tracer._offset
    whole, bare = (
        as_record(BatchGiven(got + offset, 'of "many", {all}: words', *about))
        for got, about in (
            (1.75, (2, 5, 1, 4711, *(offset + t for t in (1.0, 1.25, 1.5, 1.125, 1.75)), 4096)),
            (2.5, (2, 6, None, None, None, None, None, offset + 2.0, offset + 2.5, 0)),
        )
    )
    assert [list(line) for line in lines_of(tmp_path / "events.jsonl")] == [list(whole), list(bare)]
    for line, right in zip(lines_of(tmp_path / "events.jsonl"), (whole, bare), strict=True):
        for key, value in right.items():
            assert line[key] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value), key


def test_a_relative_path_stays_where_it_was_when_the_program_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = recorder("events.jsonl")
    monkeypatch.chdir("/")
    told.closed()
    assert len(lines_of(tmp_path / "events.jsonl")) == 1


# ---------------------------------------------------------------- telling never hurts


def unwritable(tmp_path: Path, kind: str) -> str:
    if kind == "named pipe":
        os.mkfifo(tmp_path / "pipe")
    return {
        "full disk": "/dev/full",
        "missing directory": str(tmp_path / "none" / "events.jsonl"),
        "directory": str(tmp_path),
        "named pipe": str(tmp_path / "pipe"),
    }[kind]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["full disk", "missing directory", "directory", "named pipe"])
def test_a_file_that_cannot_be_written_is_told_once_and_training_goes_on(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "full disk" and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    path = unwritable(tmp_path, kind)
    told = recorder(path)
    told.fault(fault(action="restarted"))
    told.fault(fault(action="restarted"))
    told.closed()
    warnings = [message for message in caplog.messages if "cannot write events" in message]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"train: cannot write events to {path} (")
    assert warnings[0].endswith("); training goes on without them [SL112]")
    assert len(told.report().faults) == 2


def test_a_line_that_is_written_only_in_part_ends_the_file_of_events(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))"
    first, second = stderr_of(setup=limit, SAFELOADER_EVENTS=str(tmp_path / "events.jsonl"))
    assert f"train: cannot write events to {tmp_path}/events.jsonl (only 200 of " in first
    assert second.endswith(FAULT_LINE)
    assert (tmp_path / "events.jsonl").stat().st_size == 200


class Exploding(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the program's own handler is broken")


def test_a_broken_log_handler_of_the_program_does_not_reach_training(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    logging.getLogger("safeloader").addHandler(Exploding())
    told = recorder(path)
    number = told.fault(fault())
    told.resumed(number, 1.0)
    told.fell_back(4, 2, "why")
    assert [event["event"] for event in lines_of(path)] == ["fault", "resume", "fallback"]
    assert told.report().rung == 2


def test_nonsense_told_to_a_recorder_does_not_reach_training_but_is_complained_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = recorder()
    assert told.fault(fault(stack=3, indices=5, sample=None)) == 0
    told.started("pid", None, "long")  # type: ignore[arg-type]
    told.resumed(99, None)  # type: ignore[arg-type]
    told.slow(None, None, None)  # type: ignore[arg-type]
    told.code_changed(None)  # type: ignore[arg-type]
    complaints = [r for r in caplog.records if "could not record what happened" in r.getMessage()]
    assert len(complaints) == 1
    assert complaints[0].exc_info is not None
    assert told.fault(fault()) == 1


def test_an_interrupt_of_the_user_is_not_swallowed() -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorder(clock=interrupted).closed()
