"""What of queues.yaml belongs to this machine, and how the worker of one of its devices is run. Starts nothing."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from reef.settings import Settings, inherited_environment
from reef.topology import Device, Pool, Topology
from workers.supervisor import ExitReport, ProcessSpec

CODE = Path(__file__).resolve().parents[1]
KNOWLEDGE_POOLS = ("embed", "index")
"""Where one of these has a device on this machine, documents are read here, and a vector store is needed."""
GRACE_EXTRA_S = 5.0
SECRET_CHARACTERS_MIN = 8
"""Shorter passwords are not blotted out of logs: they would tear holes into ordinary words."""

Seat = tuple[Pool | None, Device]
"""A device and the pool it belongs to for good; None: a strategy gives it out."""


def this_machine() -> str:
    """What queues.yaml calls this machine unless REEF_MACHINE says otherwise."""
    return socket.gethostname().partition(".")[0].lower()


def local_devices(topology: Topology, machine: str = "") -> list[tuple[Pool, Device]]:
    """The devices of pools that belong to this machine. `machine`: REEF_MACHINE, where it is set."""
    here = ("", machine or this_machine())
    return [(pool, device) for pool in topology.pools.values() for device in pool.devices if device.host in here]


def local_allocated(topology: Topology, machine: str = "") -> list[Device]:
    """The devices of this machine that a strategy gives out."""
    return [device for device in topology.allocated if device.host in ("", machine or this_machine())]


def local_seats(topology: Topology, machine: str = "") -> list[Seat]:
    """All devices of this machine that get a worker."""
    given: list[Seat] = [(None, device) for device in local_allocated(topology, machine)]
    return [*local_devices(topology, machine), *given]


def node_of(seat: Seat) -> str:
    """Name of the worker of a device."""
    pool, device = seat
    return pool.node(device) if pool else device.node


def needs_vectors(topology: Topology, machine: str = "") -> bool:
    """Whether this machine reads documents. A worker elsewhere could not reach a server on our loopback anyway."""
    return any(pool.name in KNOWLEDGE_POOLS for pool, _ in local_devices(topology, machine))


def python(module: str, *arguments: str) -> list[str]:
    """A module of this program in a process of its own."""
    return [sys.executable, "-m", module, *arguments]


def worker_spec(settings: Settings, topology: Topology, seat: Seat) -> ProcessSpec:
    """How the worker of a device is run. One that is given out may come to serve any pool."""
    from workers.engines.select import environment

    own, device = seat
    node = node_of(seat)
    variables = inherited_environment() | {"PYTHONUNBUFFERED": "1"} | settings.changed(node=node).environment()
    pools = [own] if own else list(topology.pools.values())
    for pool in pools:
        variables |= environment(pool, device)
    return ProcessSpec(
        name=node,
        argv=python("workers.main", *(("--pool", own.name) if own else ()), "--device", device.address),
        environment=variables,
        directory=CODE,
        on_exit=_hand_back(settings),
        stop_grace_s=max(pool.limits.drain_s for pool in pools) + GRACE_EXTRA_S,
    )


def secrets_of(settings: Settings) -> list[str]:
    """What must not stand in a log."""
    urls = (settings.redis_url, settings.database_url, settings.chroma_url)
    known = [settings.remote_api_key, *map(_password_of, urls)]
    return [secret for secret in known if len(secret) >= SECRET_CHARACTERS_MIN]


def _hand_back(settings: Settings) -> Callable[[ExitReport], None]:
    """The jobs of a dead worker go back to their queue before its successor asks for jobs."""

    def hand_back(report: ExitReport) -> None:
        from workers.recovery import recover_node

        recover_node(settings, report.name)

    return hand_back


def _password_of(url: str) -> str:
    try:
        return sa.make_url(url).password or ""
    except (sa.exc.ArgumentError, ValueError):
        return ""
