"""Prometheus scrapes the running product, and the dashboard's queries and the alerts are asked of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis
import yaml
from chat_client import ChatClient
from machines import wait_for
from services import free_port
from whole_product import Reef

from reef import keys
from reef.contracts.nodes import DeviceHealth, NodeReport
from reef.placement.model import Place
from reef.placement.store import PlacementStore
from reef.records.database import Database
from reef.records.tables import devices, models

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
WINDOW = "20s"
PATIENCE_S = 30.0
SILENT = {
    "Told from the log": "nobody was told late",
    "Files": "no file came",
    "Search": "nobody searched",
    "Documents by state": "there are none",
    "Uploads": "there are none",
    "Time to load": "the one load was before Prometheus looked",
}
"""Panels that may have no data after a chat with one simulated device."""
UNLIKELY = ("NaN", "+Inf")


@pytest.fixture(scope="module")
def prometheus(reef: Reef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Debian's Prometheus on a free port, with our configuration pointed at the running product."""
    directory = tmp_path_factory.mktemp("prometheus")
    settings = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [reef.url.removeprefix("http://")]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(settings))
    (directory / "rules.yml").write_text(
        (DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (directory / "key").write_text("none")
    port = free_port()
    argv = ["prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{port}"]
    argv.append(f"--storage.tsdb.path={directory / 'data'}")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=10) as client:

            def scrapes() -> bool:
                assert process.poll() is None, (directory / "log").read_text()
                try:
                    return bool(ask(client, "coralreef_node_up == 1"))
                except (httpx.TransportError, ValueError):
                    return False  # it answers in words while it starts

            wait_for("a first scrape", scrapes, [])
            yield client
    finally:
        process.terminate()
        process.wait(10)


def ask(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """The result of an instant query. Fails with Prometheus' own error."""
    answer = client.get("/query", params={"query": query}).json()
    assert answer["status"] == "success", f"{query}: {answer.get('error')}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def panels() -> dict[str, list[str]]:
    """The dashboard's queries as Grafana sends them."""
    found = json.loads((DEPLOY / "grafana/dashboards/coral-reef.json").read_text(encoding="utf-8"))["panels"]
    return {
        panel["title"]: [
            one["expr"].replace("$__rate_interval", WINDOW).replace("$pool", ".*") for one in panel["targets"]
        ]
        for panel in found
        if panel["type"] != "row"
    }


def empty_panels(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """The panels that show nothing, each with the query that gave nothing."""
    for title, queries in panels().items():
        for query in queries:
            if not [one for one in ask(client, query) if one["value"][1] not in UNLIKELY]:
                yield title, query


def until_told(missing: Callable[[], object]) -> None:
    """Wait until nothing is missing: after a scrape that came too late Prometheus knows nothing until the next."""
    deadline = time.monotonic() + PATIENCE_S
    while left := missing():
        assert time.monotonic() < deadline, f"Prometheus has no data for {left}"
        time.sleep(0.1)


def furnish(reef: Reef, client: redis.Redis) -> None:
    """A device with sensors that has failed, its place, and a model on disk: what a chat alone does not bring."""
    now = time.time()
    database = Database(reef.settings.sqlalchemy_url)
    with database.write() as connection:
        row = {"host": "beta", "name": "usb:0", "identity": "2-1", "failures": 2, "quarantined_until": now + 600}
        connection.execute(devices.insert().values(**row, first_seen_at=now, last_seen_at=now))
        model = {"name": "m", "format": "tflite", "path": "/m", "size_bytes": 1234, "added_at": now, "used_at": now}
        connection.execute(models.insert().values(**model))
    PlacementStore(database).put([Place(node="usb-0.beta", pool="chat", tier="hot")])
    database.dispose()
    health = DeviceHealth(
        temperature_c=70.5,
        temperature_limit_c=85.0,
        throttled=False,
        resets=1,
        memory_used_bytes=4_000_000,
        memory_total_bytes=8_000_000,
    )
    report = NodeReport(
        node="usb-0.beta",
        pool="chat",
        device="usb:0",
        kind="edgetpu",
        host="beta",
        pid=1,
        at=now + 60,  # it speaks for the whole test
        state="ready",
        health=health,
        last_fault="the device hung",
        last_fault_at=now - 5,
        inferences_per_s=12.5,
    )
    client.hset(keys.NODES, report.node, msgspec.json.encode(report))  # type: ignore[arg-type]


def test_the_dashboard_is_answered_by_a_running_reef(reef: Reef, prometheus: httpx.Client) -> None:
    """No query fails, and every panel whose subject there was has data."""
    with redis.Redis.from_url(reef.settings.redis_url) as client:
        furnish(reef, client)
    with ChatClient(reef.url) as chat:
        for _ in range(2):
            chat.finish(chat.say("hello"))
        replies = 'sum(increase(coralreef_replies_total{outcome="done"}[20s])) > 0'

        def counted() -> bool:
            chat.finish(chat.say("and again"))
            node, ended = (
                'coralreef_node_info{node="usb-0.beta"}',
                'coralreef_pool_ended_jobs{pool="chat", state="done"}',
            )
            return all(ask(prometheus, query) for query in (replies, node, f"{ended} >= 3"))

        wait_for("replies in Prometheus", counted, [])
        # what a worker counts comes with its next report, a second after the web process has counted
        until_told(lambda: {title: query for title, query in empty_panels(prometheus) if title not in SILENT})
    asked = (
        'coralreef_device_quarantined{device="usb:0"} == 1',
        'coralreef_node_place_behind{node="usb-0.beta"} == 1',
        "coralreef_model_cache_bytes == 1234",
    )
    until_told(lambda: [query for query in asked if not ask(prometheus, query)])


def test_every_alert_is_evaluated_without_error(prometheus: httpx.Client) -> None:
    """Prometheus has evaluated each rule of deploy/prometheus/rules.yml at least once."""

    def rules() -> list[dict[str, Any]]:
        groups = prometheus.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_for("an evaluation of each rule", lambda: all(rule["health"] != "unknown" for rule in rules()), [])
    assert {rule["name"]: rule.get("lastError", "") for rule in rules() if rule["health"] != "ok"} == {}
    assert len(rules()) == len(yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"][0]["rules"])


def test_a_missing_device_is_seen_though_it_has_no_series(reef: Reef, prometheus: httpx.Client) -> None:
    """The alert's own query: queues.yaml gives one device; asked of a pool where nobody reports, one is missing."""
    rule = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"][0]["rules"][2]
    assert rule["alert"] == "DeviceMissing"
    assert ask(prometheus, rule["expr"]) == []
    gone = rule["expr"].replace("coralreef_node_up", 'coralreef_node_up{node="nobody"}')
    until_told(lambda: [gone] if [one["value"][1] for one in ask(prometheus, gone)] != ["1"] else [])
    assert reef.get("/healthz")
