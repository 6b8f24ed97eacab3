"""Who gets what a person writes here, in words: said by the pages, known from the settings and queues.yaml."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from app.guard import is_loopback
from reef.settings import Settings
from reef.topology import Device, Topology


class Whereabouts(NamedTuple):
    """`readers`: what is not on this machine and gets the text. `shared`: others than its own user may come in."""

    readers: tuple[str, ...]
    shared: bool
    machine: str

    def told(self, what: str) -> str:
        """The sentence about what people do here, "you write"."""
        others = " Whoever may open this reef can read it." if self.shared else ""
        if self.readers:
            return f"What {what} goes to {_listed(self.readers)}.{others}"
        if self.shared:
            return f"What {what} stays on the machine of this reef, {self.machine}.{others}"
        return f"Everything {what} stays on this machine."


def whereabouts(settings: Settings, topology: Topology) -> Whereabouts:
    """Who gets the texts of a reef that is set up like this."""
    machine = settings.machine or socket.gethostname().partition(".")[0]
    readers = (*_model_servers(settings, topology), *_workers(topology, machine), *_stores(settings))
    shared = bool(settings.allowed_origins.strip()) or not is_loopback(settings.host)
    return Whereabouts(readers, shared, machine)


def _devices(topology: Topology) -> Iterator[Device]:
    for pool in topology.pools.values():
        yield from pool.devices
    yield from topology.allocated


def _model_servers(settings: Settings, topology: Topology) -> Iterator[str]:
    asked = any(device.kind == "remote" for device in _devices(topology)) or any(
        pool.engine == "remote" and (pool.devices or topology.allocated) for pool in topology.pools.values()
    )
    if asked and (host := _elsewhere(settings.remote_url)):
        yield f"the model server at {host}"


def _workers(topology: Topology, machine: str) -> Iterator[str]:
    hosts = sorted({device.host for device in _devices(topology)} - {"", machine.lower()})
    if hosts:
        yield f"the workers on {_listed(hosts)}"


def _stores(settings: Settings) -> Iterator[str]:
    stores = (
        ("the database", settings.database_url),
        ("the broker", settings.redis_url),
        ("the vector index", settings.chroma_url),
        ("the reranker", settings.rerank_url),
    )
    for name, url in stores:
        if host := _elsewhere(url):
            yield f"{name} at {host}"


def _elsewhere(url: str) -> str:
    """The host of this address, where it is not this machine."""
    host = urlsplit(url).hostname or ""
    return "" if not host or is_loopback(host) else host


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
