"""Make docs/grafana-dashboard.json from the table of metrics: ``python -m tools.dashboard`` writes it.

Import it in Grafana (Dashboards, New, Import); it asks for the Prometheus that scrapes ``safeloader.metrics.serve()``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["DASHBOARD", "dashboard", "expressions", "text"]

DASHBOARD = Path(__file__).resolve().parents[1] / "docs" / "grafana-dashboard.json"
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_CHOSEN = 'job=~"$job",loader=~"$loader"'
_EACH = "{{loader}} {{rank}}"


class Panel(NamedTuple):
    """One panel: what it shows, in which unit, where it is red, and how large it is (of 24 columns)."""

    title: str
    words: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    red_from: float | None = None
    most: float | None = None
    kind: str = "timeseries"
    width: int = 12
    height: int = 8


_BY = "by (loader, rank)"
_WAITS = f"sum {_BY} (rate(safeloader_wait_seconds_total{{{_CHOSEN}}}[$__rate_interval]))"
PANELS = (
    Panel("Trainer waits for data, at most", "Share of the time for which the training loop of the slowest rank waits.",
          ((f"max({_WAITS})", ""),), "percentunit", 0.5, 1, "stat", 6, 4),
    Panel("Batches a second", "All ranks together.",
          ((f"sum(rate(safeloader_batches_total{{{_CHOSEN}}}[$__rate_interval]))", ""),), "short", kind="stat", width=6,
          height=4),
    Panel("Processes missing", "Workers without a process of their own: policy has gone down the ladder.",
          ((f"sum(safeloader_workers{{{_CHOSEN}}}) - sum(safeloader_processes{{{_CHOSEN}}})", ""),), "short", 1,
          kind="stat", width=6, height=4),
    Panel("Faults", "Since the programs began, by cause.",
          ((f"sum by (cause) (safeloader_faults_total{{{_CHOSEN}}})", "{{cause}}"),), "short", 1, kind="stat", width=6,
          height=4),
    Panel("The trainer waits for data", "Exposed data-loading time: share of the time for which each rank waits.",
          ((_WAITS, _EACH),), "percentunit", 0.5, 1),
    Panel("Batches a second", "A line that lies at 0 is a rank that stands still.",
          ((f"sum {_BY} (rate(safeloader_batches_total{{{_CHOSEN}}}[$__rate_interval]))", _EACH),)),
    Panel("Batches that were ready", "Share of the batches that were there when they were asked for.",
          ((f"safeloader_ready_ratio{{{_CHOSEN}}}", _EACH),), "percentunit", most=1),
    Panel("Wait for a batch", "What 95 % and 99 % of the batches were waited for at most.",
          ((f'max {_BY[:-1]}, quantile) (safeloader_wait_quantile_seconds{{{_CHOSEN},quantile=~"0.95|0.99"}})',
            _EACH + " p{{quantile}}"),), "s"),
    Panel("Where the time of a batch goes", "p95 of each stage, of the slowest worker: load, collate, transfer, wait.",
          ((f'max by (loader, stage) (safeloader_stage_quantile_seconds{{{_CHOSEN},quantile="0.95"}})',
            "{{loader}} {{stage}}"),), "s"),
    Panel("Epoch", "A rank that is behind is seen here.", ((f"safeloader_epoch{{{_CHOSEN}}}", _EACH),)),
    Panel("Faults, restarts, fallbacks, skipped samples", "Each since the step before.",
          ((f"sum by (loader, cause) (increase(safeloader_faults_total{{{_CHOSEN}}}[$__rate_interval]))",
            "{{loader}} {{cause}}"),
           (f"sum by (loader) (increase(safeloader_restarts_total{{{_CHOSEN}}}[$__rate_interval]))",
            "{{loader}} restarts"),
           (f"sum by (loader) (increase(safeloader_fallbacks_total{{{_CHOSEN}}}[$__rate_interval]))",
            "{{loader}} fallbacks"),
           (f"sum by (loader) (increase(safeloader_recoveries_total{{{_CHOSEN}}}[$__rate_interval]))",
            "{{loader}} recoveries"),
           (f"sum by (loader) (increase(safeloader_skipped_samples_total{{{_CHOSEN}}}[$__rate_interval]))",
            "{{loader}} skipped"),
           (f"sum by (loader) (increase(safeloader_slow_batches_total{{{_CHOSEN}}}[$__rate_interval]))",
            "{{loader}} slow batches"))),
    Panel("Workers and processes", "Below the number of workers: fewer processes serve them.",
          ((f"sum by (loader) (safeloader_workers{{{_CHOSEN}}})", "{{loader}} workers"),
           (f"sum by (loader) (safeloader_processes{{{_CHOSEN}}})", "{{loader}} processes"))),
    Panel("Lost to faults", "Seconds that faults have cost, since the programs began.",
          ((f"sum {_BY} (safeloader_lost_seconds_total{{{_CHOSEN}}})", _EACH),), "s"),
    Panel("Memory", "Of the worker processes (USS), and shared memory that batches take.",
          ((f"sum {_BY} (safeloader_memory_bytes{{{_CHOSEN}}})", _EACH + " processes"),
           (f"sum {_BY} (safeloader_shared_memory_bytes{{{_CHOSEN}}})", _EACH + " batches")), "bytes"),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole dashboard, as Grafana imports it."""
    panels, x, y, row = [], 0, 0, 0
    for number, panel in enumerate(PANELS, 1):
        if x + panel.width > 24:
            x, y, row = 0, y + row, 0
        panels.append(_panel(panel, number, x, y))
        x, row = x + panel.width, max(row, panel.height)
    return {
        "uid": "safeloader", "title": "safeloader", "tags": ["pytorch", "data loading"], "schemaVersion": 39,
        "version": 1, "editable": True, "timezone": "browser", "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            _variable("job", "label_values(safeloader_batches_total, job)"),
            _variable("loader", 'label_values(safeloader_batches_total{job=~"$job"}, loader)'),
        ]},
        "annotations": {"list": []}, "links": [], "panels": panels,
    }  # fmt: skip


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "type": "query", "datasource": _SOURCE, "query": {"query": query, "refId": name},
        "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*", "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    stat = {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}}
    lines = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
             "tooltip": {"mode": "multi", "sort": "desc"}}  # fmt: skip
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.words, "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": stat if panel.kind == "stat" else lines,
        "targets": [
            {"refId": chr(65 + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend or "__auto"}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }  # fmt: skip


def expressions(of: dict[str, Any]) -> list[str]:
    """Every query of a dashboard, with values for its variables, as Prometheus takes it."""
    found = [target["expr"] for panel in of["panels"] for target in panel["targets"]]
    return [one.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$loader", ".*") for one in found]


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text(), encoding="utf-8")
