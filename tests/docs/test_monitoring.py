"""The dashboard and the alert rules: of metrics that there are, and accepted by Grafana's schema and by Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader.observe.numbers import TABLE
from tests.docs.pages import ROOT
from tests.programs import environment
from tests.until import until
from tools import dashboard

RULES = ROOT / "docs" / "prometheus-alerts.yml"
PROGRAM = """
import sys, torch, safeloader.metrics
from torch.utils.data import TensorDataset
from safeloader import DataLoader
if __name__ == "__main__":
    server = safeloader.metrics.serve(0)
    loader = DataLoader(TensorDataset(torch.arange(64.0)), 4, num_workers=1, persistent_workers=True, name="train")
    for _ in range(3):
        for _ in loader: pass
    print(server.port, flush=True)
    sys.stdin.read()
"""
needs_prometheus = [
    pytest.mark.prometheus,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="Prometheus is not here: apt-get install --no-install-recommends prometheus",
    ),
]


def test_the_dashboard_is_the_one_that_is_made() -> None:
    stale = "docs/grafana-dashboard.json is not current: python -m tools.dashboard"
    assert dashboard.DASHBOARD.read_text(encoding="utf-8") == dashboard.text(), stale


def _expressions() -> list[str]:
    yaml = pytest.importorskip("yaml")
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    return [*dashboard.expressions(dashboard.dashboard()), *(rule["expr"] for rule in rules)]


def test_every_metric_and_label_that_is_asked_for_is_one() -> None:
    known = {f"safeloader_{row.name}{'_total' if row.counter else ''}": row.labels for row in TABLE}
    common = {"job", "instance", "loader", "rank"}
    for one in _expressions():
        names = set(re.findall(r"safeloader_\w+", one))
        assert names, one
        assert names <= set(known), one
        labels = {label for name in names for label in known[name]} | common
        asked = {word.strip() for group in re.findall(r"by \(([^)]*)\)", one) for word in group.split(",")}
        asked |= set(re.findall(r"(\w+)=~?\"", one))
        assert asked <= labels, one


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_key_of_the_dashboard_is_one_of_grafanas_schema() -> None:
    """It is read as Grafana's schema has it, and written again: what the schema does not know would be lost."""
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    made = dashboard.dashboard()
    kept = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(json.loads(json.dumps(made)))))
    assert list(_lost(made, kept)) == []


def _lost(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from _lost(value, kept.get(key, "lost"), f"{place}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{place}[{number}]")
    elif given != kept:
        yield f"{place}: {given!r} is {kept!r}"


_SERIES = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'safeloader_batches_total{{job="t", instance="a", loader="train"}}', values: '0+60x20 1200x40'}}
      - {{series: 'safeloader_batches_total{{job="t", instance="b", loader="train"}}', values: '0+60x60'}}
      - {{series: 'safeloader_wait_seconds_total{{job="t", instance="a", loader="train"}}', values: '0+1x20 20+60x40'}}
      - {{series: 'safeloader_restarts_total{{job="t", instance="b", loader="train"}}', values: '0x30 1+1x29'}}
      - {{series: 'safeloader_workers{{job="t", instance="b", loader="train"}}', values: '4x60'}}
      - {{series: 'safeloader_processes{{job="t", instance="b", loader="train"}}', values: '4x30 2x30'}}
      - {{series: 'safeloader_skipped_samples_total{{job="t", instance="b", loader="train"}}', values: '0x30 2x30'}}
    alert_rule_test:
{expected}
"""


def _expected(minute: int, firing: dict[str, str]) -> str:
    """YAML: which alerts fire at a minute, each for one instance."""
    lines = []
    for rule, severity, loader in (
        ("SafeloaderStandsStill", "critical", ""), ("SafeloaderTrainerWaits", "warning", "train"),
        ("SafeloaderRestartsOften", "warning", "train"), ("SafeloaderFewerProcesses", "warning", "train"),
        ("SafeloaderSkipsSamples", "info", "train"),
    ):  # fmt: skip
        lines.append(f"      - {{eval_time: {minute}m, alertname: {rule}, exp_alerts: [")
        if rule in firing:
            labels = f"job: t, instance: {firing[rule]}, severity: {severity}" + (
                f", loader: {loader}" if loader else ""
            )
            lines[-1] += f"{{exp_labels: {{{labels}}}, exp_annotations: *{rule}_{minute}}}"
        lines[-1] += "]}"
    return "\n".join(lines)


class TestPrometheus:
    pytestmark = needs_prometheus

    def test_the_rules_are_rules(self) -> None:
        subprocess.run(["promtool", "check", "rules", RULES], check=True, capture_output=True, timeout=60)

    def test_each_alert_fires_when_it_should_and_only_then(self, tmp_path: Path) -> None:
        """promtool names the alerts that it got: annotations are not compared, only which fire, and for whom."""
        fire = {"SafeloaderStandsStill": "a", "SafeloaderTrainerWaits": "a", "SafeloaderRestartsOften": "b",
                "SafeloaderFewerProcesses": "b", "SafeloaderSkipsSamples": "b"}  # fmt: skip
        yaml = pytest.importorskip("yaml")
        bare = yaml.safe_load(RULES.read_text(encoding="utf-8"))
        for rule in bare["groups"][0]["rules"]:
            del rule["annotations"]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(bare))
        expected = "\n".join(_expected(minute, firing) for minute, firing in ((19, {}), (55, fire)))
        expected = re.sub(r", exp_annotations: \*\w+", "", expected)
        (tmp_path / "test.yml").write_text(_SERIES.format(rules=tmp_path / "rules.yml", expected=expected))
        done = subprocess.run(
            ["promtool", "test", "rules", tmp_path / "test.yml"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.timeout(200)
    def test_a_real_prometheus_scrapes_a_program_and_answers_every_panel(self, tmp_path: Path) -> None:
        (tmp_path / "program.py").write_text(PROGRAM)
        program = subprocess.Popen(
            [sys.executable, tmp_path / "program.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment(),
        )  # fmt: skip
        assert program.stdout is not None
        scraped, port = int(program.stdout.readline()), _free_port()
        (tmp_path / "prometheus.yml").write_text(
            f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{RULES}']\n"
            f"scrape_configs: [{{job_name: train, static_configs: [{{targets: ['127.0.0.1:{scraped}']}}]}}]\n"
        )
        server = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}/api/v1"
            until(lambda: _answer(address, "query", query="count_over_time(safeloader_batches_total[1m]) >= 3"))
            for one in dashboard.expressions(dashboard.dashboard()):
                found = _answer(address, "query", query=one)
                assert found or "_faults_" in one, f"nothing is shown by {one}"
            (group,) = _answer(address, "rules")["groups"]
            assert [rule["health"] for rule in group["rules"]] == ["ok"] * 5
        finally:
            server.terminate()
            program.communicate()
            server.wait(30)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answer(address: str, what: str, **parameters: str) -> Any:
    """What Prometheus answers; nothing while it does not."""
    try:
        with urllib.request.urlopen(f"{address}/{what}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
            data = json.load(answer)["data"]
    except ConnectionError:
        return None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError) or getattr(error, "code", 0) == 503:
            return None
        raise
    return data["result"] if what == "query" else data
