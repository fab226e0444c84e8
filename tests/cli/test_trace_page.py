"""The page that `safeloader trace` makes, looked at in headless Chromium: light, dark, hover, zoom, a telephone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from safeloader.tracing.assets import KINDS
from safeloader.tracing.lanes import lanes
from safeloader.tracing.page import page
from safeloader.tracing.read import read
from tests.browser import Browser, browser, found

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(200),
    pytest.mark.skipif(
        found() is None, reason="Chromium is not here: apt-get install chromium, or CHROMIUM=/path/to/it"
    ),
]
NAME = "train <img src=x onerror=\"document.title='owned'\">"


def events() -> Iterator[dict[str, Any]]:
    """Forty batches by two processes, one of which hangs once."""
    common = {"v": 1, "loader": NAME, "trainer": 1}
    for process in (11, 12):
        yield {**common, "t": 1000.0, "event": "start", "process": process, "workers": [process - 11], "seconds": 3.0}
    for n in range(40):
        at = 1000.0 + n * 0.5 + (6.0 if n >= 20 else 0.0)
        yield {**common, "t": at + 0.4, "event": "batch", "epoch": 0, "batch": n, "worker": n % 2, "process": 11 + n % 2,
               "taken": at, "collated": at + 0.3, "finished": at + 0.35, "asked": at + 0.1, "got": at + 0.4,
               "nbytes": 4096}  # fmt: skip
    yield {**common, "t": 1015.0, "event": "fault", "cause": "hung", "process": 11, "worker": 0, "sample": NAME,
           "stalled": 5.0, "detail": NAME, "stack": NAME, "action": "restarted", "attempts": 1}  # fmt: skip
    yield {**common, "t": 1016.4, "event": "resume", "fault": 0, "seconds_lost": 1.4}
    yield {**common, "t": 1027.0, "event": "epoch", "epoch": 0, "batches": 40}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    story = read(json.dumps(event).encode() for event in events())
    path.write_text(page(lanes(story.events), story.notes, NAME), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


def test_the_verdict_comes_first_and_nothing_in_a_name_is_obeyed(report: str, looking: Browser) -> None:
    looking.open(report, 1400)
    assert looking.run("document.querySelector('h1').nextElementSibling.className") == "verdict"
    told = looking.run("document.querySelector('.verdict').innerText")
    assert "of the time the trainer waited for data" in told
    assert "1 hang" in told
    assert looking.run("document.querySelectorAll('img').length") == 0
    assert looking.run("document.title") == f"safeloader: {NAME}"


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_wider_than_the_page(report: str, looking: Browser, width: int) -> None:
    looking.open(report, width)
    assert looking.run("document.documentElement.scrollWidth") <= width
    plots = looking.run("[...document.querySelectorAll('.plot svg')].map(svg => svg.getBoundingClientRect().right)")
    assert len(plots) == 2
    assert all(right <= width for right in plots)


@pytest.mark.parametrize("dark", [False, True])
def test_everything_that_is_drawn_is_in_the_legend_and_can_be_seen(report: str, looking: Browser, dark: bool) -> None:
    looking.open(report, 1400, dark=dark)
    assert looking.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)"
    )
    listed = set(
        looking.run("[...document.querySelectorAll('.key svg > *')].map(shape => shape.getAttribute('class'))")
    )
    drawn = set(
        looking.run("[...document.querySelectorAll('.plot svg > *')].map(shape => shape.getAttribute('class'))")
    )
    assert listed == set(KINDS)
    assert (
        {"wait", "compute", "start", "load", "collate", "fault", "fault-mark", "mark"}
        <= drawn
        <= listed | {"share", "rate"}
    )
    colours = looking.run(
        "[...document.querySelectorAll('.key svg > rect')].map(shape => getComputedStyle(shape).fill)"
    )
    ground = looking.run("getComputedStyle(document.body).backgroundColor")
    assert len(set(colours)) == len(colours), "each has a colour of its own"
    assert ground not in colours


_POINT = (
    "(() => {{ const shape = document.querySelector('.plot {0}'), box = shape.getBoundingClientRect();"
    "shape.dispatchEvent(new PointerEvent('pointermove', {{bubbles: true, clientX: box.left, clientY: box.top}}));"
    "const tip = document.getElementById('tip'); return [tip.hidden, tip.textContent]; }})()"
)


def test_what_is_under_the_mouse_is_told(report: str, looking: Browser) -> None:
    looking.open(report, 1400)
    hidden, told = looking.run(_POINT.format("rect.load"))
    assert not hidden
    assert told.startswith("load: epoch 0, batch 0, worker 0 (0.3 s,")
    hidden, told = looking.run(_POINT.format("line.fault-mark"))
    assert "cause hung" in told
    assert NAME in told, "as text"
    assert looking.run(_POINT.format("svg"))[0], "nothing is there to be told"


def test_one_can_look_closer_with_buttons_and_by_dragging(report: str, looking: Browser) -> None:
    looking.open(report, 1400)
    view = "[...document.querySelectorAll('.plot svg')].map(svg => svg.viewBox.baseVal).map(box => [box.x, box.width])"
    press = "document.querySelector('.zoom [data-act={}]').click()"
    last = "document.querySelector('.ticks').lastElementChild.textContent"
    assert looking.run(view) == [[0, 1000], [0, 1000]]
    looking.run(press.format("in"))
    assert looking.run(view) == [[250, 500], [250, 500]], "both plots show the same time"
    assert looking.run(last) != "29 s"
    looking.run(press.format("right"))
    assert looking.run(view)[0][0] > 250
    looking.run(press.format("all"))
    assert looking.run(view)[0] == [0, 1000]
    box = looking.run(
        "(() => { const b = document.querySelector('.plot svg').getBoundingClientRect(); return [b.left, b.top, b.width]; })()"
    )
    for kind, share in (("mousePressed", 0.5), ("mouseReleased", 0.75)):
        x, y = box[0] + share * box[2], box[1] + 5
        looking.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    begin, width = looking.run(view)[0]
    assert begin == pytest.approx(500, abs=3)
    assert width == pytest.approx(250, abs=3)
