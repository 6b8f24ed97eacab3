"""What of queues.yaml belongs to this machine, and how a worker of it is run. Starts nothing."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from cli.errors import Problem
from reef.placement.serving import given_out
from reef.settings import Settings
from reef.topology import Device, Pool, Topology, TopologyError, load_topology
from workers.process_spec import ExitReport, ProcessSpec

CODE = Path(__file__).resolve().parents[1]
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
KNOWLEDGE_POOLS = ("embed", "index")
"""Where one of these has a device on this machine, documents are read here, and a vector store is needed."""
WORKER_GRACE_EXTRA_S = 5.0


class Post(msgspec.Struct, frozen=True):
    """A worker of this machine: its device, and the pools that it may come to serve."""

    node: str
    device: Device
    pools: tuple[Pool, ...]
    given_out: bool = False
    """No pool owns the device: a strategy says what it serves."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound there."""
    return host in LOOPBACK_HOSTS or host.startswith("127.")


def this_machine() -> str:
    """What queues.yaml calls this machine unless REEF_MACHINE says otherwise."""
    return socket.gethostname().partition(".")[0].lower()


def read_topology(settings: Settings) -> Topology:
    """queues.yaml, its mistakes told as a Problem."""
    try:
        return load_topology(settings.queues_file, settings.model)
    except TopologyError as error:
        raise Problem(str(error), "Correct that line; `coral-reef doctor` checks the file.") from None


def all_posts(topology: Topology) -> list[Post]:
    """Every worker that queues.yaml has, on whatever machine: those of pools, then those that are given out."""
    fixed = [Post(pool.node(device), device, (pool,)) for pool in topology.pools.values() for device in pool.devices]
    given = given_out(topology)

    def pools(device: Device) -> tuple[Pool, ...]:
        able = topology.able(device)
        return tuple(pool for pool in topology.pools.values() if pool.name in given and pool.name in able)

    return fixed + [Post(device.node, device, pools(device), given_out=True) for device in topology.allocated]


def local_posts(topology: Topology, machine: str = "") -> list[Post]:
    """The workers of this machine. `machine`: REEF_MACHINE, where it is set."""
    here = ("", machine or this_machine())
    return [post for post in all_posts(topology) if post.device.host in here]


def local_devices(topology: Topology, machine: str = "") -> list[tuple[Pool, Device]]:
    """The devices of pools that belong to this machine."""
    return [(post.pools[0], post.device) for post in local_posts(topology, machine) if not post.given_out]


def local_pools(topology: Topology, machine: str = "") -> list[Pool]:
    """The pools that this machine serves or may come to serve, each with the devices that it has here for that."""
    return pools_of(local_posts(topology, machine))


def pools_of(posts: Iterable[Post]) -> list[Pool]:
    """The pools that these workers may come to serve, each with their devices alone."""
    pools: dict[str, Pool] = {}
    devices: dict[str, list[Device]] = {}
    for post in posts:
        for pool in post.pools:
            pools[pool.name] = pool
            devices.setdefault(pool.name, []).append(post.device)
    return [msgspec.structs.replace(pool, devices=tuple(devices[name])) for name, pool in pools.items()]


def needs_vectors(topology: Topology, machine: str = "") -> bool:
    """Whether this machine reads documents. A worker elsewhere could not reach a server on our loopback anyway."""
    return any(pool.name in KNOWLEDGE_POOLS for pool in local_pools(topology, machine))


def worker_spec(post: Post, environment: Mapping[str, str], on_exit: Callable[[ExitReport], None]) -> ProcessSpec:
    """How the worker is run; `environment` is what every process of the reef gets here."""
    from workers.engines.select import environment as wanted_by_engines

    variables = dict(environment)
    for pool in post.pools:
        variables |= wanted_by_engines(pool, post.device)
    owner = () if post.given_out else ("--pool", post.pools[0].name)
    return ProcessSpec(
        name=post.node,
        argv=[sys.executable, "-m", "workers.main", *owner, "--device", post.device.address],
        environment=variables,
        directory=CODE,
        on_exit=on_exit,
        stop_grace_s=max((pool.limits.drain_s for pool in post.pools), default=0.0) + WORKER_GRACE_EXTRA_S,
    )
