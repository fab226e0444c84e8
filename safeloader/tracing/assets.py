"""What the page of `safeloader trace` looks like, and how it answers to a mouse: no other file is needed."""

from __future__ import annotations

__all__ = ["KINDS", "SCRIPT", "STYLE"]

KINDS = {
    "wait": "the trainer waits for a batch",
    "compute": "the trainer has a batch: the training step",
    "start": "a process starts",
    "load": "a process loads the samples of a batch",
    "collate": "it makes a batch of them, in shared memory",
    "idle": "it has nothing to do",
    "fault": "nothing moves: from when it stopped until the fault was noticed",
    "stall": "a stall that was reported: no batch asked for, or none that came",
    "fault-mark": "a fault is noticed",
    "mark": "something else: an epoch's end, a fallback, a skipped sample",
}
"""What is drawn, in words: the legend. Each is a class of the style sheet."""

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #222; --quiet: #666; --line: #ddd;
--wait: #d95f5f; --compute: #5fa55a; --start: #9a9a9a; --load: #4b86c2; --collate: #8f6bb3; --idle: #ececec;
--fault: #b00000; --stall: #222; --mark: #e0a030; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --text: #e4e6e8; --quiet: #9aa3ab; --line: #3a4048;
--wait: #e07070; --compute: #5c9f58; --start: #858b92; --load: #5b9bd8; --collate: #a583cb; --idle: #262b31;
--fault: #ff5a5a; --stall: #f0f0f0; --mark: #e8b34a; --good: #7ccf80; } }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1320px; padding: 0 1em; color: var(--text);
background: var(--ground); }
.verdict { font-size: 1.15em; border-left: 4px solid var(--wait); padding: .1em 0 .1em .8em; margin: .8em 0; }
.verdict.good { border-color: var(--good); } .verdict p { margin: .2em 0; }
.wide { overflow-x: auto; } h1, h2, p { overflow-wrap: anywhere; } td { overflow-wrap: break-word; }
table { border-collapse: collapse; margin: .6em 0; } td, th { padding: .2em .8em .2em 0; text-align: left;
border-bottom: 1px solid var(--line); vertical-align: top; } td.n, th.n { text-align: right; white-space: nowrap; }
pre { margin: 0; font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
.key { display: grid; grid-template-columns: repeat(auto-fill, minmax(19em, 1fr)); gap: .1em 1em; list-style: none;
padding: 0; } .key svg { width: 1em; height: .8em; display: inline-block; margin-right: .5em; }
.key b { font-weight: 600; }
.plot { display: grid; grid-template-columns: 9em minmax(0, 1fr); margin: .6em 0; }
.names div { height: 18px; font-size: 11px; line-height: 18px; color: var(--quiet); overflow: hidden;
white-space: nowrap; text-overflow: ellipsis; }
.plot svg { width: 100%; display: block; touch-action: pan-y; cursor: crosshair; }
.ticks { grid-column: 2; display: flex; justify-content: space-between; font-size: 11px; color: var(--quiet); }
.zoom button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: 4px;
padding: 0 .6em; }
.zoom { color: var(--quiet); font-size: 12px; } .no-script { display: none; }
.wait { fill: var(--wait); } .compute { fill: var(--compute); } .start { fill: var(--start); }
.load { fill: var(--load); } .collate { fill: var(--collate); } .idle { fill: var(--idle); }
.fault { fill: var(--fault); } .stall { fill: var(--stall); }
.mark, .fault-mark { stroke: var(--mark); stroke-width: 4px; vector-effect: non-scaling-stroke; }
.fault-mark { stroke: var(--fault); } .share { fill: var(--wait); opacity: .35; }
.rate { fill: none; stroke: var(--load); stroke-width: 1.5px; vector-effect: non-scaling-stroke; }
rect:hover { filter: brightness(1.25); }
#tip { position: fixed; pointer-events: none; background: var(--ground); color: var(--text); padding: .3em .6em;
border: 1px solid var(--quiet); border-radius: 4px; font-size: 12px; max-width: 32em; box-shadow: 0 2px 8px #0005;
overflow-wrap: anywhere; z-index: 9; }
#tip[hidden] { display: none; }
"""

SCRIPT = """
(() => {
  const tip = document.createElement('div');
  tip.id = 'tip'; tip.hidden = true; document.body.append(tip);
  for (const title of document.querySelectorAll('.plot title')) {
    title.parentNode.dataset.tip = title.textContent; title.remove();
  }
  document.addEventListener('pointermove', event => {
    const told = event.target.dataset && event.target.dataset.tip;
    tip.hidden = !told;
    if (!told) return;
    tip.textContent = told;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const above = event.clientY + 18 + tip.offsetHeight > innerHeight;
    tip.style.left = Math.max(left, 4) + 'px';
    tip.style.top = (above ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18) + 'px';
  });
  const unit = s => s < 1e-3 ? (s * 1e6).toFixed(0) + ' \\u00b5s' : s < 0.1 ? (s * 1e3).toFixed(1) + ' ms' :
    s < 10 ? s.toFixed(2) + ' s' : s < 600 ? s.toFixed(0) + ' s' : (s / 60).toFixed(1) + ' min';
  for (const run of document.querySelectorAll('.run')) {
    const seconds = +run.dataset.seconds, plots = [...run.querySelectorAll('.plot svg')];
    const ticks = [...run.querySelectorAll('.ticks')];
    let from = 0, to = 1;
    const draw = () => {
      for (const svg of plots) {
        const box = svg.viewBox.baseVal, all = +svg.dataset.width;
        svg.setAttribute('viewBox', `${from * all} ${box.y} ${(to - from) * all} ${box.height}`);
      }
      for (const row of ticks) [...row.children].forEach((tick, i, several) => {
        tick.textContent = unit((from + (to - from) * i / (several.length - 1)) * seconds);
      });
    };
    const show = (begin, end) => {
      const width = Math.min(Math.max(end - begin, 1e-5), 1);
      from = Math.min(Math.max(begin, 0), 1 - width); to = from + width; draw();
    };
    const zoom = (factor, at) => {
      const middle = from + (to - from) * at;
      show(middle - (middle - from) * factor, middle + (to - middle) * factor);
    };
    const place = (svg, event) => {
      const box = svg.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    };
    for (const svg of plots) {
      let held = null;
      svg.addEventListener('wheel', event => {
        if (!event.ctrlKey && !event.shiftKey) return;
        event.preventDefault(); zoom(event.deltaY + event.deltaX > 0 ? 1.4 : 1 / 1.4, place(svg, event));
      }, {passive: false});
      svg.addEventListener('pointerdown', event => {
        held = place(svg, event); svg.setPointerCapture(event.pointerId);
      });
      svg.addEventListener('pointerup', event => {
        const let_go = place(svg, event), width = to - from;
        if (held !== null && Math.abs(let_go - held) > .01)
          show(from + width * Math.min(held, let_go), from + width * Math.max(held, let_go));
        held = null;
      });
      svg.addEventListener('dblclick', () => show(0, 1));
    }
    const act = {in: () => zoom(.5, .5), out: () => zoom(2, .5), all: () => show(0, 1),
      left: () => show(from - (to - from) / 3, to - (to - from) / 3),
      right: () => show(from + (to - from) / 3, to + (to - from) / 3)};
    for (const button of run.querySelectorAll('.zoom button'))
      button.addEventListener('click', act[button.dataset.act]);
    for (const bar of run.querySelectorAll('.zoom')) bar.classList.remove('no-script');
  }
})();
"""
