"""The Kubernetes manifests fit the published schemas, and say what queues.yaml, compose and the command line say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from command_lines import parse

from reef.broker_roles import ROLES
from reef.contracts.jobs import JOBS
from reef.settings import PREFIX, Settings
from reef.topology import load_topology

ROOT = Path(__file__).resolve().parents[3]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = ("base", "postgres", "edgetpu", "grpc")
VERSIONS = ("1.28", "1.33")
"""The oldest and the newest Kubernetes that the manifests are held against."""
PART = "app.kubernetes.io/component"
RUNNERS = ("Deployment", "StatefulSet")
SECRETS = {"reef-web", "reef-worker", "reef-sweeper", "reef-database", "reef-broker-users", "reef-postgres"}
"""Made by the operator (docs/operations.md says how); none is in the repository."""


def kustomization(overlay: str) -> dict[str, Any]:
    """An overlay's list."""
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / overlay / "kustomization.yaml").read_text())
    return loaded


def resources(overlay: str) -> list[dict[str, Any]]:
    """What an overlay's own files define."""
    names = [name for name in kustomization(overlay)["resources"] if name.endswith(".yaml")]
    return [one for name in names for one in yaml.safe_load_all((FOLDER / overlay / name).read_text())]


ALL = [one for overlay in OVERLAYS for one in resources(overlay)]
BASE = {(one["kind"], one["metadata"]["name"]): one for one in resources("base")}
PODS = {one["metadata"]["name"]: one for one in ALL if one["kind"] in RUNNERS}


def containers(name: str) -> Iterator[dict[str, Any]]:
    """All containers of a workload, those that run first among them."""
    spec = PODS[name]["spec"]["template"]["spec"]
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_manifest_fits_its_schema(one: dict[str, Any], version: str) -> None:
    """Strictly: a misspelt field would be dropped by the server without a word."""
    kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    """The check above does refuse."""
    web = yaml.safe_load(yaml.safe_dump(BASE["Deployment", "web"]))
    web["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(web, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_file_is_listed_and_there(overlay: str) -> None:
    """Kustomize applies what is listed; a file beside the list would be forgotten."""
    listed = kustomization(overlay)
    files = set(listed["resources"]) | {
        name for one in listed.get("configMapGenerator", []) for name in one.get("files", [])
    }
    assert all((FOLDER / overlay / name).exists() for name in files)
    assert {path.name for path in (FOLDER / overlay).iterdir()} - files == {"kustomization.yaml"}


def test_pools_are_those_of_queues_yaml_with_a_pod_for_each_device() -> None:
    """Same pools, queues, models and limits; every device is named after a pod that there is, and every pod has one."""
    here, there = load_topology(FOLDER / "base/queues.yaml"), load_topology(ROOT / "queues.yaml")
    assert list(here.pools) == list(there.pools)
    assert {job.POOL for job in JOBS} <= set(here.pools)
    for pool in there.pools.values():
        mine = here.pools[pool.name]
        assert (mine.queue, mine.engine, mine.model, mine.streams, mine.context_tokens, mine.nice, mine.limits) == (
            (pool.queue, pool.engine, pool.model, pool.streams, pool.context_tokens, pool.nice, pool.limits)
        )
        assert [device.name for device in mine.devices] == [device.name for device in pool.devices] * len(mine.devices)
        name = f"worker-{pool.name}"
        assert (name in PODS) is bool(mine.devices)
        if mine.devices:
            replicas = PODS[name]["spec"]["replicas"]
            assert [device.host for device in mine.devices] == [f"{name}-{n}" for n in range(replicas)]
            (container,) = containers(name)
            assert container["args"] == ["worker", "--pool", pool.name]
            grace_s = PODS[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            assert grace_s > pool.limits.drain_s


def test_commands_and_health_checks_are_those_of_the_command_line() -> None:
    """Arguments parse, and exec probes of our image run commands that there are."""
    for name in PODS:
        for container in containers(name):
            if not container["image"].startswith("coral-reef:"):
                continue
            parse(container["args"])
            for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
                command = container.get(probe, {}).get("exec", {}).get("command")
                if command:
                    assert command[:3] == ["python", "-m", "cli"]
                    parse(command[3:])
    (web,) = [one for one in containers("web") if one["name"] == "web"]
    (gateway,) = [one for one in containers("web") if one["name"] == "gateway"]
    assert gateway["volumeMounts"] == web["volumeMounts"], "sockets are handed over in the data directory"
    assert web["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert web["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_images_are_pinned_and_those_of_compose() -> None:
    """One version of each program, however it is run."""
    composed = {service["image"] for service in SERVICES.values()} - {"coral-reef"}
    used = {container["image"] for name in PODS for container in containers(name)}
    ours = {image for image in used if image.startswith("coral-reef:")}
    assert used - ours <= composed
    assert ours == {f"coral-reef:{kustomization('base')['images'][0]['newTag']}"}


def test_settings_are_real_and_secrets_come_by_reference() -> None:
    """A misspelt variable would be ignored; a password in a manifest would be in version control."""
    known = {PREFIX + name.upper() for name in Settings.__struct_fields__}
    literals = dict(one.split("=", 1) for one in kustomization("base")["configMapGenerator"][0]["literals"])
    assert {name for name in literals if name.startswith(PREFIX)} <= known
    referred = set()
    for name in PODS:
        for container in containers(name):
            for entry in container.get("env", []):
                assert not entry["name"].startswith(PREFIX) or entry["name"] in known
                assert not re.search("PASSWORD|KEY|TOKEN", entry["name"]) or "valueFrom" in entry
                referred.add(entry.get("valueFrom", {}).get("secretKeyRef", {}).get("name"))
            referred |= {one.get("secretRef", {}).get("name") for one in container.get("envFrom", [])}
        for volume in PODS[name]["spec"]["template"]["spec"].get("volumes", []):
            referred.add(volume.get("secret", {}).get("secretName"))
    assert referred - {None} == SECRETS
    assert not [one for one in ALL if one["kind"] == "Secret"]
    assert {f"reef-{role}" for role in ROLES} - SECRETS == {"reef-monitor"}, "Flower is not part of it"
    told = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert all(secret in told for secret in SECRETS)


def test_every_workload_is_bounded_and_unprivileged() -> None:
    """Requests and memory limits everywhere; only what opens a device of the host is privileged."""
    for name in PODS:
        spec = PODS[name]["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        for container in containers(name):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert container["securityContext"].get("privileged", False) is (name == "worker-edgetpu")
            if name != "worker-edgetpu":
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert spec["securityContext"]["runAsNonRoot"] is True


def test_every_selector_finds_its_pods() -> None:
    """Services, budgets, affinities and workloads name labels that pods have."""
    parts = {PODS[name]["spec"]["template"]["metadata"]["labels"][PART] for name in PODS}
    for one in ALL:
        spec = one.get("spec", {})
        selector = spec.get("selector") or {}
        part = selector.get(PART) or selector.get("matchLabels", {}).get(PART)
        if one["kind"] in (*RUNNERS, "Service", "PodDisruptionBudget"):
            assert part in parts, one["metadata"]
        if one["kind"] == "StatefulSet":
            assert ("Service", spec["serviceName"]) in {(x["kind"], x["metadata"]["name"]) for x in ALL}
        if one["kind"] == "NetworkPolicy":
            text = yaml.safe_dump(spec)
            named = set(re.findall(r"component: (\S+)", text)) | set(
                re.findall(r"^\s*- ((?:worker-)?[a-z]+)$", text, re.MULTILINE)
            )
            assert named <= parts, one["metadata"]["name"]


def test_nothing_is_open_that_is_not_named() -> None:
    """All pods are closed by default, and each port that a policy opens is one that its pods listen on."""
    closed = BASE["NetworkPolicy", "closed"]["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for one in ALL:
        name = one["metadata"]["name"]
        if one["kind"] == "NetworkPolicy" and name.startswith("to-"):
            part = one["spec"]["podSelector"]["matchLabels"][PART]
            ports = {port["containerPort"] for container in containers(part) for port in container.get("ports", [])}
            assert {rule["port"] for entry in one["spec"]["ingress"] for rule in entry["ports"]} == ports
            assert name in ("to-web", "to-grpc") or all(entry["from"] for entry in one["spec"]["ingress"])


def test_web_and_gateway_meet_in_a_folder_of_their_pod() -> None:
    """Their socket is on no volume that outlives them."""
    (gateway,) = [one for one in containers("web") if one["name"] == "gateway"]
    (mounted,) = [mount["name"] for mount in gateway["volumeMounts"] if mount["mountPath"] == "/data/run"]
    volumes = {volume["name"]: volume for volume in PODS["web"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes[mounted]["emptyDir"] == {}


def test_grpc_is_what_compose_runs() -> None:
    """The overlay's gateway has the same settings and port, and takes no socket."""
    (grpc,) = containers("grpc")
    said = {entry["name"]: entry["value"] for entry in grpc["env"]}
    composed = SERVICES["grpc"]["environment"]
    assert said == {name: composed[name] for name in said}
    assert (said["REEF_GATEWAY"], said["REEF_GRPC_PORT"]) == ("false", str(grpc["ports"][0]["containerPort"]))
