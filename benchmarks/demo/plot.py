"""The plot: batches over time, with the faults marked, and the undisturbed run beside."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of the backend

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

Run = dict[str, Any]

BLUE, GREY, RED, INK = "#1f5fa8", "#8a8a8a", "#c0392b", "#222222"
MARKS = {
    "kill": ("v", "#222222", "SIGKILL"),
    "stop": ("s", "#e08e0b", "SIGSTOP"),
    "hang": ("o", "#7d3c98", "sample hangs"),
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "figure.dpi": 200,
}


def draw(path: Path, undisturbed: Run, disturbed: Run, torch_disturbed: Run | None, batch_timeout: float) -> None:
    """Draw three runs into a PNG file.

    Args:
        path: Where it goes.
        undisturbed: The run of torch's DataLoader without faults.
        disturbed: The run of safeloader with faults.
        torch_disturbed: The run of torch's DataLoader with the same faults, if it was made.
        batch_timeout: Seconds; drawn as a line into the panel of waits.
    """
    with mpl.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(7.4, 5.0), sharex=True, height_ratios=[3, 1.3], layout="constrained"
        )
        for axes in (top, bottom):
            _validation_bands(axes, disturbed)
        _counts(top, undisturbed, disturbed, torch_disturbed)
        _faults(top, disturbed)
        _waits(bottom, disturbed, batch_timeout)
        top.legend(loc="lower right", fontsize=8, handletextpad=0.5, labelspacing=0.35, bbox_to_anchor=(1, 0.03))
        figure.savefig(path)
        plt.close(figure)


def _validation_bands(axes: Axes, run: Run) -> None:
    """Shade the time in which the disturbed run validates."""
    previous_end = 0.0
    for (_, phase), rows in groupby(run["batches"], key=lambda row: (row["epoch"], row["phase"])):
        end = list(rows)[-1]["at"]
        if phase == "val":
            axes.axvspan(previous_end, end, color="#f0f0f0", lw=0, zorder=0)
        previous_end = end


def _steps(run: Run) -> tuple[list[float], list[int]]:
    times = [0.0, *(row["at"] for row in run["batches"])]
    return times, list(range(len(times)))


def _counts(axes: Axes, undisturbed: Run, disturbed: Run, torch_disturbed: Run | None) -> None:
    faults = len(disturbed["struck"])
    axes.step(*_steps(undisturbed), where="post", color=GREY, lw=1.6, ls=(0, (4, 2)), label="torch, undisturbed")
    axes.step(*_steps(disturbed), where="post", color=BLUE, lw=1.8, label=f"safeloader, {faults} faults")
    if torch_disturbed is not None:
        times, counts = _steps(torch_disturbed)
        times, counts = [*times, torch_disturbed["seconds"]], [*counts, counts[-1]]
        axes.step(times, counts, where="post", color=RED, lw=1.8, label="torch, the same faults")
        if torch_disturbed["outcome"] != "finished":
            axes.plot(times[-1], counts[-1], marker="x", ms=9, mew=2.2, color=RED, zorder=6)
            axes.annotate(
                f"{torch_disturbed['outcome'].split(':')[0]}:\nthe run is over",
                (times[-1], counts[-1]),
                xytext=(0.015, 0.5),
                textcoords="axes fraction",
                color=RED,
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": RED, "lw": 0.7, "shrinkB": 5},
            )
    axes.axhline(undisturbed["due"], color=INK, lw=0.6, ls=":", zorder=1)
    axes.annotate(
        f"{undisturbed['due']} batches due",
        (0, undisturbed["due"]),
        xytext=(4, 2),
        textcoords="offset points",
        fontsize=7,
        va="bottom",
    )
    axes.set_ylabel("batches delivered")
    axes.set_ylim(-6, undisturbed["due"] * 1.07)
    axes.set_xlim(0, None)


def _faults(axes: Axes, run: Run) -> None:
    """Mark each fault on the line of the disturbed run."""
    named = set()
    for strike in run["struck"]:
        marker, colour, name = MARKS[strike["kind"]]
        delivered = sum(row["at"] <= strike["at"] for row in run["batches"])
        label = None if name in named else name
        named.add(name)
        axes.plot(
            strike["at"],
            delivered,
            marker=marker,
            ms=8,
            color=colour,
            mec="white",
            mew=0.8,
            ls="",
            label=label,
            zorder=5,
        )


def _waits(axes: Axes, run: Run, batch_timeout: float) -> None:
    """How long the training loop waited for each batch."""
    for strike in run["struck"]:
        axes.axvline(strike["at"], color=MARKS[strike["kind"]][1], lw=0.9, alpha=0.7, zorder=1)
    times = [row["at"] for row in run["batches"]]
    waits = [max(row["waited"], 1e-4) for row in run["batches"]]
    axes.vlines(times, 1e-4, waits, color=BLUE, lw=0.6, alpha=0.5)
    axes.plot(times, waits, ".", ms=3.5, color=BLUE)
    axes.axhline(batch_timeout, color=INK, lw=0.6, ls=":")
    axes.annotate(
        "batch_timeout",
        (1, batch_timeout),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=7,
    )
    axes.set_yscale("log")
    axes.set_ylim(1e-4, max(20, 2 * max(waits, default=0)))
    axes.set_yticks([1e-4, 1e-2, 1], ["0.1 ms", "10 ms", "1 s"])
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_ylabel("wait for the batch")
    axes.set_xlabel("seconds since the start (grey: validation)")
