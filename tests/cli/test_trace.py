"""From the events of a real run, with a killed worker, to a trace and a report."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from safeloader.tracing.chrome import chrome
from safeloader.tracing.lanes import TRAINER, Lane, LoaderLane, Span, lanes
from safeloader.tracing.page import page
from safeloader.tracing.read import read
from safeloader.tracing.verdict import verdict, waits_of
from tests.programs import run_script

PROGRAM = Path(__file__).parent / "programs" / "killed.py"


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    told = {"SAFELOADER_EVENTS": str(folder / "events.jsonl"), "SAFELOADER_TRACE": "1", "RANK": "3"}
    run_script(PROGRAM, str(folder / "once"), **told)
    return folder / "events.jsonl"


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        return read(file)


def test_every_batch_is_in_the_file_even_of_a_pass_that_was_left(events: Path) -> None:
    batches = [event for event in _read(events).events if event["event"] == "batch"]
    train = [event for event in batches if event["loader"] == "train <1>"]
    val = [event for event in batches if event["loader"] == "val"]
    assert sorted(event["batch"] for event in train) == list(range(6))
    assert [event["batch"] for event in sorted(val, key=lambda event: event["asked"])] == [0, 1, 2]
    assert all(event["taken"] < event["collated"] < event["finished"] < event["got"] for event in train)
    assert all(event["asked"] <= event["got"] and event["process"] is None for event in val)
    assert {event["worker"] for event in train} == {0, 1}
    assert {event["nbytes"] for event in train} == {4 * 4000}
    assert all(event["rank"] == 3 for event in batches)


def test_lanes_are_the_trainer_and_each_process_and_nothing_overlaps_in_them(events: Path) -> None:
    train, val = lanes(_read(events).events)
    assert (train.name, val.name) == ("train <1> (rank 3)", "val (rank 3)")
    first, *others = [lane.name.split()[0] for lane in train.lanes.values()]
    assert (first, set(others)) == ("trainer", {"process"})
    assert len(others) in (2, 3)  # the third one need not be ready before the end: another has taken its workers in
    for lane in [*train.lanes.values(), *val.lanes.values()]:
        spans = [span for span in lane.spans if span.kind != "fault"]
        assert all(before.end <= after.start + 1e-4 for before, after in itertools.pairwise(spans)), lane
    kinds = [span.kind for lane in list(train.lanes.values())[1:] for span in lane.spans]
    assert kinds.count("start") == len(others)
    assert kinds.count("load") == kinds.count("collate") == 6
    assert "idle" in kinds
    trainer = [span.kind for span in train.lanes[TRAINER].spans]
    assert trainer.count("wait") == 6
    assert trainer.count("compute") == 5
    (fault,) = [mark for lane in train.lanes.values() for mark in lane.marks if mark.kind == "fault"]
    assert fault.told["cause"] == "died"


def test_the_trace_and_the_report_are_written(command: Callable[..., Any], events: Path, tmp_path: Path) -> None:
    said = command("trace", events, "-o", tmp_path / "trace.json", "--html", tmp_path / "report.html")
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[-1] == "2 loaders, 9 batches, 1 fault"
    assert "note" not in said.output
    made = json.loads((tmp_path / "trace.json").read_text())
    for event in made["traceEvents"]:
        assert {"name", "ph", "pid", "tid"} <= set(event)
        assert event["ph"] in "XiM"
        assert event["ph"] == "M" or event["ts"] >= 0
        assert event["ph"] != "X" or event["dur"] >= 0
        assert all(isinstance(event.get(key, 0), int) for key in ("ts", "dur"))
    assert not _overlaps(made["traceEvents"]), "Perfetto drops a slice that ends after the one that it begins in"
    names = [event["args"]["name"] for event in made["traceEvents"] if event["ph"] == "M"]
    assert names[:2] == [f"train <1> (rank 3), trainer {made_by(events)}", "trainer"]
    page = (tmp_path / "report.html").read_text()
    assert "train &lt;1&gt;" in page
    assert "train <1>" not in page
    assert not re.search(r"https?://|<script[^>]|src=|<link", page), "it needs nothing else"
    plots = re.findall(r"<svg[^>]*role.*?</svg>", page, re.S)
    assert len(plots) == 4
    assert len(list(ElementTree.fromstring(plots[0]).iter("rect"))) >= 20
    first = next(line for line in said.stdout.splitlines() if line.startswith("train"))
    assert re.match(r"train <1> \(rank 3\): \d+% of the time the trainer waited for data \(", first), first
    assert "1 death at sample 13; survived" in first


def _overlaps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Slices that lie in another one of their thread at their beginning, and not at their end."""
    ends: dict[tuple[int, int], list[int]] = {}
    wrong = []
    slices = [event for event in events if event["ph"] == "X"]
    for event in sorted(slices, key=lambda event: (event["ts"], -event["dur"])):
        around = ends.setdefault((event["pid"], event["tid"]), [])
        while around and around[-1] <= event["ts"]:
            around.pop()
        end = event["ts"] + event["dur"]
        wrong += [event] if around and end > around[-1] else []
        around.append(end)
    return wrong


def test_spans_that_overlap_are_put_one_behind_the_other() -> None:
    spans = [
        Span("load", 1.0, 3.0, {}),
        Span("fault", 2.0, 4.0, {}),
        Span("idle", 2.5, 3.5, {}),
        Span("wait", 1.0, 9.0, {}),
    ]
    made = chrome([LoaderLane("a", 1, {TRAINER: Lane("trainer", spans)})], [])["traceEvents"]
    assert not _overlaps(made)
    assert sum(event["ph"] == "X" for event in made) == 4


def made_by(events: Path) -> int:
    return int(json.loads(events.read_text().splitlines()[0])["trainer"])


def test_a_file_that_breaks_off_is_shown_up_to_there(command: Callable[..., Any], events: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(events.read_bytes()[:-20])
    said = command("trace", cut, "-o", tmp_path / "trace.json")
    assert said.exit_code == 0
    assert "note: the file breaks off in line" in said.output
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_what_cannot_be_read_is_left_out_and_noted() -> None:
    good = b'{"v":1,"t":2.0,"loader":"a","event":"epoch","trainer":1,"epoch":0,"batches":3}\n'
    lines = [b'{"v":1,"t":3', b"\xff\xfe\n", b"[1]\n", b"\n", b'{"v":9,"t":1,"event":"new"}\n', b"[" * 99_999, good]
    story = read(lines)
    assert len(story.events) == 1
    assert story.notes[0] == "4 lines cannot be read and left out: 1, 2, 3, 6 (4 is no event)"
    assert story.notes[1] == "1 line of a newer safeloader left out"
    assert "SAFELOADER_TRACE=1" in story.notes[2]
    assert [mark.kind for mark in lanes(story.events)[0].lanes[TRAINER].marks] == ["epoch"]


def test_events_that_lack_a_key_are_left_out_and_those_that_nobody_knows_do_no_harm() -> None:
    kinds = ("batch", "start", "fault", "stall_ended", "what")
    lines = [json.dumps({"v": 1, "t": 1.0, "event": kind, "loader": "a"}).encode() for kind in kinds]
    story = read(lines)
    assert [event["event"] for event in story.events] == ["what"]
    assert "1 has no 'epoch'; 1 has no 'process'; 1 has no 'cause'" in story.notes[0]
    assert chrome(lanes(story.events), [])["traceEvents"]


_ODD = [
    None,
    True,
    -1,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    "text",
    "\x1b[31m",
    "<b>",
    "",
    [],
    [[1]],
    {},
    {"a": 1},
    5,
]


def _mutated(lines: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Every key of the first event of each kind with every odd value, and without it; bytes cut out and changed."""
    first: dict[str, int] = {}
    for number, line in enumerate(lines):
        first.setdefault(json.loads(line)["event"], number)
    for kind, number in first.items():
        event = json.loads(lines[number])
        for key in event:
            changed = [{**event, key: odd} for odd in _ODD] + [{k: v for k, v in event.items() if k != key}]
            for one in changed:
                yield f"{kind}.{key}", [*lines[:number], json.dumps(one).encode() + b"\n", *lines[number + 1 :]]
    whole, chance = b"".join(lines), random.Random(7)
    for number in range(200):
        begin, length = chance.randrange(len(whole)), chance.randrange(1, 400)
        between = bytes(chance.randrange(256) for _ in range(chance.randrange(9)))
        yield f"cut {number}", (whole[:begin] + between + whole[begin + length :]).splitlines(keepends=True)


def test_no_damage_of_a_file_ends_in_a_traceback(events: Path) -> None:
    """Whatever is in it, what is left is drawn, without a tag or an escape of its own."""
    lines = events.read_bytes().splitlines(keepends=True)
    several = list(_mutated(lines))
    assert len(several) > 1000
    for what, damaged in several:
        try:
            story = read(damaged)
            loaders = lanes(story.events)
            json.dumps(chrome(loaders, story.notes), allow_nan=False)
            made = page(loaders, story.notes, "events")
            assert all(verdict(loader) for loader in loaders)
        except Exception as error:
            raise AssertionError(what) from error
        assert "<b>\x1b" not in made and "\x1b" not in made and "trainer <b>" not in made, what


@pytest.mark.parametrize(
    "content", [b"\0" * 5000, b"PK\x03\x04" + bytes(range(256)) * 40, b'{"traceEvents": []}', b"{}\n" * 9]
)
def test_a_foreign_file_ends_in_words(command: Callable[..., Any], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "foreign").write_bytes(content)
    said = command("trace", tmp_path / "foreign", "--html", tmp_path / "report.html")
    assert said.exit_code == 1
    assert said.output.splitlines()[-1] == f"Error: {tmp_path / 'foreign'} holds no event of safeloader"


def batch(number: int, asked: float, got: float, **more: Any) -> dict[str, Any]:
    return {"v": 1, "t": got, "loader": "a", "event": "batch", "trainer": 1, "epoch": 0, "batch": number, "asked": asked,
            "got": got, "worker": 0, **more}  # fmt: skip


def test_the_verdict_divides_the_wait_among_its_causes() -> None:
    common = {"v": 1, "loader": "a", "trainer": 1}
    fault = {**common, "t": 115.0, "event": "fault", "cause": "hung", "process": 7, "sample": 3, "stalled": 5.0}
    events = [
        {**common, "t": 104.0, "event": "start", "process": 7, "seconds": 4.0, "workers": [0]},
        batch(0, 100.0, 105.0), fault, {**common, "t": 118.0, "event": "restart", "process": 8, "seconds": 2.5},
        {**common, "t": 119.0, "event": "resume", "fault": 0, "seconds_lost": 4.0}, batch(1, 109.0, 119.0),
        batch(2, 120.0, 120.0),
    ]  # fmt: skip
    (loader,) = lanes(read(json.dumps(event).encode() for event in events).events)
    waits = waits_of(loader)
    assert (waits.total, waits.faults, waits.starts, waits.loading) == (20.0, 9.0, 4.0, 2.0)
    told = verdict(loader)
    assert told[0] == (
        "75% of the time the trainer waited for data (15 s of 20 s): 4.0 s while processes started (2 starts); "
        "9.0 s for 1 hang; 2.0 s because loading was slower than training"
    )
    assert told[1] == "1 hang at sample 3; survived"
    assert "standby=1" in told[2]


def test_a_loader_that_keeps_up_is_said_to() -> None:
    (loader,) = lanes([batch(number, number, number + 0.01) for number in range(9)])
    assert verdict(loader) == ["1% of the time the trainer waited for data: the loader kept up (9 batches in 8.0 s)"]


@pytest.mark.parametrize(
    ("content", "line", "status", "words"),
    [
        (None, ["no.jsonl", "-o", "x.json"], 2, "does not exist"),
        ("", ["events", "-o", "x.json"], 1, "holds no event"),
        ("not json\n", ["events", "-o", "x.json"], 1, "holds no event"),
        ("", ["events"], 2, "say what to write"),
        ("", ["events", "-o", "./events"], 2, "must be different files"),
        ("", ["events", "-o", "x", "--html", "x"], 2, "must be different files"),
        ('{"v":1,"t":1,"loader":"a","event":"epoch"}\n', ["events", "-o", "missing/x.json"], 1, "cannot be written"),
    ],
)
def test_wrong_use_is_said_in_a_line(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, line: list[str],
    status: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "events").write_text(content)
    said = command("trace", *line)
    assert (said.exit_code, words in said.output, "Traceback" in said.output) == (status, True, False), said.output


def test_tracing_without_a_file_of_events_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from safeloader.config import resolve
    from safeloader.observe.recorder import Recorder
    from safeloader.observe.timings import Pulse

    told = Recorder("train", resolve(environ={"SAFELOADER_TRACE": "1"}))
    assert "set SAFELOADER_EVENTS, too" in caplog.text
    assert told.tracer is None
    assert type(told.pulse) is Pulse
