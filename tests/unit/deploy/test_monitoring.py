"""Dashboard and alert rules speak of metrics and labels that exist, and are what compose provisions."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from reef.metrics import METRICS

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = ROOT / "deploy/grafana/dashboards/coral-reef.json"
RULES = ROOT / "deploy/prometheus/rules.yml"
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""


def panel_queries() -> dict[str, list[str]]:
    """The queries of every panel, as written."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return {panel["title"]: [one["expr"] for one in panel["targets"]] for panel in panels if panel["type"] != "row"}


def filled(query: str, interval: str = "1m") -> str:
    """A query as Grafana sends it."""
    return query.replace("$__rate_interval", interval).replace("$pool", ".*")


def rules() -> list[dict[str, Any]]:
    """All alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector below a node of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if isinstance(child, promql_parser.Expr):
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def groupings(node: Any) -> Iterator[str]:
    """Every label that an aggregation or a match below a node names."""
    modifier = getattr(node, "modifier", None)
    for part in (modifier, getattr(modifier, "matching", None)):
        yield from getattr(part, "labels", None) or ()
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if isinstance(child, promql_parser.Expr):
            yield from groupings(child)
    for child in getattr(node, "args", None) or ():
        yield from groupings(child)


def declared(name: str) -> tuple[str, set[str]]:
    """The declared metric of a series and the labels it can have. Raises KeyError."""
    if name == "up":
        return name, set(SCRAPED)
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and base in METRICS and METRICS[base].kind == "histogram":
            return base, {*METRICS[base].labels, *SCRAPED, *(("le",) if suffix == "_bucket" else ())}
    if METRICS[name].kind == "histogram":
        raise KeyError(f"{name} is a histogram: it has _bucket, _sum and _count")
    return name, {*METRICS[name].labels, *SCRAPED}


def check(query: str) -> None:
    """Raises KeyError or AssertionError where a query names what does not exist."""
    parsed = promql_parser.parse(filled(query))
    found = list(selectors(parsed))
    assert found, f"{query} asks for nothing"
    known: set[str] = set()
    for selector in found:
        _, labels = declared(selector.name)
        known |= labels
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= labels, f"{query}: {selector.name} has no label {used - labels}"
    assert set(groupings(parsed)) <= known, f"{query}: groups by {set(groupings(parsed)) - known}"


@pytest.mark.parametrize("title", sorted(panel_queries()))
def test_every_panel_asks_for_metrics_that_exist(title: str) -> None:
    """A renamed metric or label would leave a panel empty without a word."""
    for query in panel_queries()[title]:
        check(query)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    """And says what is wrong and what to do."""
    check(rule["expr"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "action"}
    _, labels = declared(next(selectors(promql_parser.parse(rule["expr"]))).name)
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels


@pytest.mark.parametrize(
    "query",
    [
        "coralreef_node_warmth",
        'coralreef_node_up{color="red"}',
        "sum by (color) (coralreef_node_up)",
        "coralreef_reply_seconds",
        "rate(coralreef_node_up_bucket[5m])",
    ],
)
def test_what_does_not_exist_would_be_noticed(query: str) -> None:
    """The check above does refuse."""
    with pytest.raises((KeyError, AssertionError)):
        check(query)


def test_promtool_accepts_the_rules_and_the_configuration(tmp_path: Path) -> None:
    """Prometheus' own checker, from Debian's package."""
    for source in (RULES, RULES.with_name("prometheus.yml")):
        (tmp_path / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "key").write_text("a key")
    for kind, path in (("rules", tmp_path / "rules.yml"), ("config", tmp_path / "prometheus.yml")):
        answer = subprocess.run(["promtool", "check", kind, path], capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_metric_of_devices_is_on_the_dashboard() -> None:
    """What the operator is meant to see is there to be seen."""
    shown = {
        declared(selector.name)[0]
        for queries in panel_queries().values()
        for query in queries
        for selector in selectors(promql_parser.parse(filled(query)))
    }
    wanted = {name for name in METRICS if re.match(r"coralreef_(node|device|pool|model|placement)", name)}
    assert wanted <= shown


def test_compose_provisions_what_is_here() -> None:
    """Files are mounted where the programs look, images are pinned, and both are behind one profile."""
    for name in ("prometheus", "grafana"):
        service = SERVICES[name]
        assert service["profiles"] == ["monitoring"]
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    port = SERVICES["web"]["command"][-1]
    assert scrape["static_configs"] == [{"targets": [f"web:{port}"]}]
    assert scrape["job_name"] == "coral-reef", "an alert asks for this job"
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/reef.yaml").read_text())["providers"][0]
    assert (ROOT / mounts[provider["options"]["path"]]) == DASHBOARD.parent
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    uids = set(re.findall(r'"uid": "(reef-\w+)"', DASHBOARD.read_text()))
    assert uids == {source["datasources"][0]["uid"]}
