"""The documentation as a reader sees it, in headless Chromium, on a wide screen and on a telephone, light and dark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, browser, found
from tests.docs.pages import ROOT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        found() is None, reason="Chromium is not here: apt-get install chromium, or CHROMIUM=/path/to/it"
    ),
]

# What is wider than the column that it stands in, or hides a part of itself; each with a selector and how much.
FAULTS = """(() => {
  const wrong = [], room = document.documentElement.clientWidth;
  const tell = (e, what) => wrong.push(
    what + ': ' + e.tagName.toLowerCase() + ' ' + (e.textContent || '').trim().slice(0, 60));
  if (document.documentElement.scrollWidth > room) wrong.push('the page scrolls: ' + document.documentElement.scrollWidth);
  const column = document.querySelector('.content') || document.body;
  const edge = column.getBoundingClientRect();
  for (const e of column.querySelectorAll('p, li, pre, table, td, th, img, svg, dl, dt, dd, h1, h2, h3, h4, code')) {
    const box = e.getBoundingClientRect();
    if (room < 800 && e.matches('.diagram pre')) continue;  // a drawing in characters can be pushed aside, in itself
    if (!box.width || e.closest('svg') !== null && e.tagName !== 'svg') continue;
    if (box.right > edge.right + 1 || box.left < edge.left - 1) tell(e, 'wider than its column by ' +
      Math.round(Math.max(box.right - edge.right, edge.left - box.left)));
    else if (e.scrollWidth > e.clientWidth + (getComputedStyle(e).overflowX === 'visible' ? 6 : 1) && ['PRE', 'TABLE', 'TD', 'DD', 'LI'].includes(e.tagName))
      tell(e, 'hides ' + (e.scrollWidth - e.clientWidth) + ' px of itself');
  }
  return [...new Set(wrong)].slice(0, 12);
})()"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo")
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", out / "doctrees", ROOT / "docs", out / "html"]
    subprocess.run([str(word) for word in command], check=True, timeout=380, cwd=ROOT)
    return out / "html"


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.mark.parametrize("width", [1400, 400])
def test_no_page_hides_anything(built: Path, looking: Browser, width: int) -> None:
    wrong: dict[str, Any] = {}
    pages = sorted(
        p for p in built.rglob("*.html") if "_modules" not in p.parts and p.name not in ("genindex.html", "search.html")
    )
    assert len(pages) > 25
    for page in pages:
        looking.open(page.as_uri(), width)
        if found := looking.run(FAULTS):
            wrong[str(page.relative_to(built))] = found
    assert not wrong, "\n".join(f"{page}: {one}" for page, several in wrong.items() for one in several)


def test_the_settings_are_whole_and_read_from_top_to_bottom(built: Path, looking: Browser) -> None:
    looking.open((built / "settings.html").as_uri(), 1400)
    rows = looking.run(
        "[...document.querySelectorAll('#settings tbody tr')].map(row => [...row.cells].map(cell => "
        "{ const box = cell.getBoundingClientRect(); return [box.left, box.top, box.width, cell.innerText]; }))"
    )
    assert len(rows) > 20
    for cells in rows:
        assert [cell[1] for cell in cells] == sorted(cell[1] for cell in cells)
        assert all(width > 600 and text for _, _, width, text in cells)


def test_ninety_columns_of_code_are_one_line(built: Path, looking: Browser) -> None:
    looking.open((built / "quick-start.html").as_uri(), 1400)
    room = looking.run(
        "(() => { const pre = document.querySelector('article pre'), probe = document.createElement('span');"
        "probe.textContent = 'x'.repeat(90); probe.style.whiteSpace = 'pre'; pre.append(probe);"
        "const style = getComputedStyle(pre), wide = probe.getBoundingClientRect().width; probe.remove();"
        "return pre.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - wide; })()"
    )
    assert room >= 0


# Texts whose colour is too close to what is behind them: the ratio of WCAG, of which 3 is the least for large text.
FAINT = """(() => {
  const wrong = new Set();
  const rgb = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = c => c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > .5) return c; }
    return [255, 255, 255, 1];
  };
  const walker = document.createTreeWalker(document.querySelector('.content'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, e = node.parentElement;
    if (!node.textContent.trim() || !e.getClientRects().length || e.closest('.headerlink, button, svg, script, style, .muted-link')) continue;
    const a = light(rgb(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 3) wrong.add(`${ratio.toFixed(1)}: ${e.tagName} ${e.className} ${node.textContent.trim().slice(0, 40)}`);
  }
  return [...wrong].slice(0, 12);
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_no_text_is_faint(built: Path, looking: Browser, dark: bool) -> None:
    wrong = {}
    for name in ("index", "quick-start", "settings", "command-line", "metrics", "core", "faults", "api"):
        looking.open((built / f"{name}.html").as_uri(), 1400, dark=dark)
        if found := looking.run(FAINT):
            wrong[name] = found
    assert not wrong


@pytest.mark.parametrize("dark", [False, True])
def test_pictures_are_seen_in_the_dark(built: Path, looking: Browser, dark: bool) -> None:
    """A drawing with dark letters and no ground of its own is given one."""
    for name in ("core", "command-line"):
        looking.open((built / f"{name}.html").as_uri(), 1400, dark=dark)
        pictures = looking.run(
            "[...document.querySelectorAll('.content img')].map(e => [e.getAttribute('src'), e.naturalWidth, "
            "getComputedStyle(e).backgroundColor])"
        )
        assert pictures
        assert all(width > 0 for _, width, _ in pictures), "each is there"
        if dark:
            bare = [
                source for source, _, ground in pictures if source.endswith(".svg") and ground == "rgba(0, 0, 0, 0)"
            ]
            assert not bare


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(built: Path, looking: Browser, dark: bool) -> None:
    looking.open((built / "settings.html").as_uri(), 1400, dark=dark)
    lightness = looking.run(
        "['color', 'backgroundColor'].map(name => { const [r, g, b] = getComputedStyle(document.body)[name]"
        ".match(/\\d+/g).map(Number); return 0.2126 * r + 0.7152 * g + 0.0722 * b; })"
    )
    text, ground = lightness
    assert (ground < 60) is dark
    assert abs(text - ground) > 150
