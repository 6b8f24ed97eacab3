"""docker-compose.yml, Dockerfile, queues.yaml and the commands of the CLI say the same thing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from command_lines import parse

from reef.contracts.jobs import JOBS
from reef.settings import PREFIX, Settings, load_settings
from reef.topology import load_topology

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "coral-reef"}


def worker_pool(service: dict[str, Any]) -> str | None:
    """The pool a service works for."""
    command = service["command"]
    return command[command.index("--pool") + 1] if command[0] == "worker" else None


def test_every_pool_has_a_worker_service() -> None:
    """A pool that is added to queues.yaml gets a service, and no service serves a pool that is gone."""
    served = {name: pool for name, service in OURS.items() if (pool := worker_pool(service))}
    assert served == {f"worker-{name}": name for name in load_topology(ROOT / "queues.yaml").pools}


def test_pools_without_devices_are_behind_a_profile() -> None:
    """`docker compose up` starts only workers that have a device."""
    for pool in load_topology(ROOT / "queues.yaml").pools.values():
        profiles = SERVICES[f"worker-{pool.name}"].get("profiles")
        assert profiles == (None if pool.devices else [pool.name]), pool.name


def test_every_kind_of_job_has_a_pool() -> None:
    """A job that the front door can send is consumed by some pool of queues.yaml."""
    assert {job.POOL for job in JOBS} <= set(load_topology(ROOT / "queues.yaml").pools)


@pytest.mark.parametrize("name", sorted(OURS))
def test_commands_exist_with_these_options(name: str) -> None:
    """Every service starts a command of the CLI, and its options parse."""
    parse(OURS[name]["command"])


@pytest.mark.parametrize("name", sorted(set(OURS) - {"migrate"}))
def test_health_checks_can_run(name: str) -> None:
    """Every service of ours has a health check, of a program that is in the image."""
    test = OURS[name]["healthcheck"]["test"]
    assert test[:2] == ["CMD", "python"]
    if test[2] == "-m":
        assert test[3] == "cli"
        parse(test[4:])
    else:
        compile(test[3], name, "exec")


def test_an_unknown_option_would_be_noticed() -> None:
    """The parser used above does refuse."""
    with pytest.raises(click.UsageError):
        parse(["worker", "--pools", "chat"])


def test_all_wait_for_broker_and_migration() -> None:
    """No part starts before the broker serves and the database is at its version."""
    for name, service in OURS.items():
        wanted = {"redis": {"condition": "service_healthy"}}
        if name != "migrate":
            wanted["migrate"] = {"condition": "service_completed_successfully"}
        assert service["depends_on"] == wanted, name


def test_environment_is_of_real_settings() -> None:
    """A misspelt REEF_ variable would be ignored silently; none is."""
    known = {PREFIX + name.upper() for name in Settings.__struct_fields__}
    for name, service in OURS.items():
        assert {key for key in service["environment"] if key.startswith(PREFIX)} <= known, name
    env_example = (ROOT / "deploy/env.example").read_text()
    variables = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert variables == set(re.findall(r"^(\w+)=", env_example, re.MULTILINE))


def test_the_specified_size_of_the_cache_is_understood() -> None:
    """MODEL_CACHE_SIZE of the specification's compose file, with its unit, is our setting; empty leaves the default."""
    for name, service in OURS.items():
        assert service["environment"]["REEF_MODEL_CACHE_BYTES"] == "${MODEL_CACHE_SIZE:-}", name
    given = [load_settings({"REEF_MODEL_CACHE_BYTES": text}).model_cache_bytes for text in ("32GB", "")]
    assert given == [32 * 10**9] * 2


def test_no_secret_is_on_a_command_line_and_no_port_beyond_loopback() -> None:
    """Command lines can be read by others on the host; published ports bind to loopback."""
    for name, service in SERVICES.items():
        assert not re.search(r"PASSWORD|BASIC_AUTH", str(service.get("command", ""))), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_containers_have_the_time_to_drain() -> None:
    """Docker does not kill a worker that is finishing a reply."""
    for pool in load_topology(ROOT / "queues.yaml").pools.values():
        grace = SERVICES[f"worker-{pool.name}"]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > pool.limits.drain_s


def test_grpc_is_behind_a_profile_and_at_the_port_of_the_proxies() -> None:
    """Nobody serves it without asking; its gateway takes no socket, and the other one is where web is."""
    grpc, gateway = SERVICES["grpc"], SERVICES["gateway"]
    assert (grpc["profiles"], grpc["environment"]["REEF_GATEWAY"]) == (["grpc"], "false")
    port = grpc["environment"]["REEF_GRPC_PORT"]
    assert grpc["ports"] == [f"127.0.0.1:{port}:{port}"]
    for file in ("nginx/coral-reef.conf", "caddy/Caddyfile"):
        assert f"127.0.0.1:{port}" in (ROOT / "deploy" / file).read_text(encoding="utf-8")
    assert gateway["volumes"] == SERVICES["web"]["volumes"]
    assert gateway["environment"] == SERVICES["web"]["environment"]


def test_the_specified_services_are_there() -> None:
    """Web, gateway, sweeper, broker, vectors, monitor and the PostgreSQL profile, each with a health check."""
    for name in ("web", "gateway", "sweeper", "redis", "chroma", "flower", "postgres"):
        assert "test" in SERVICES[name]["healthcheck"], name
    assert SERVICES["postgres"]["profiles"] == ["postgres"]


def test_the_image_has_what_it_runs() -> None:
    """The Dockerfile copies every package of ours, installs the locked requirements and runs the CLI unprivileged."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"bench"}
    assert packages <= copied
    assert all((ROOT / path).exists() for path in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    assert "RUN pip install --no-cache-dir -r requirements.txt" in lines
    installed = " ".join(line for line in lines if "apt-get install" in line).split()
    assert {"libgomp1", "tesseract-ocr", "tesseract-ocr-eng"} <= set(installed)
    assert 'ENTRYPOINT ["python", "-m", "cli"]' in lines
    assert "USER reef" in lines
