"""What a worker process says about itself, about once a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

NodeState = Literal["loading", "ready", "draining", "failed", "quarantined"]
"""`quarantined`: its device failed repeatedly; the worker waits with the next try, `note` says until when."""


class DeviceHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the hardware itself tells. None: it does not tell, or nobody can know; nothing here is an estimate."""

    identity: str = ""
    """A chip's own id, a USB port path, a GPU's UUID; empty for devices without one."""
    temperature_c: float | None = None
    temperature_limit_c: float | None = None
    """Where it begins to slow down."""
    throttled: bool | None = None
    owner_pid: int | None = None
    resets: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    link: str = ""
    """How it is attached, such as "USB 3, 5000 Mbit/s" or "PCIe 0000:01:00.0"."""
    note: str = ""
    """Its own or its driver's word: "ALIVE", a server's models."""


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's state. `at` is Unix seconds; a report older than keys.NODE_TTL_S means the worker is gone."""

    node: str
    pool: str
    device: str
    kind: str
    host: str
    pid: int
    at: float
    state: NodeState
    engine: str = ""
    model: str = ""
    progress: float = 0.0
    """Share of the model that is loaded, 0..1."""
    note: str = ""
    """A sentence for a person: what is being done, or what went wrong."""
    running: int = 0
    streams: int = 1
    simulated: bool = False
    tier: str = "pool"
    """See reef.placement.model.Tier."""
    general: bool = True
    routes: tuple[str, ...] = ()
    """What it takes jobs for now; see reef.placement.model.Place."""
    resident: tuple[str, ...] = ()
    """Models in memory, the one that serves among them; of TFLite models the names of their files too."""
    loading: str = ""
    """Model that is being made ready beside the one that serves; `progress` and `note` are about it."""
    place_version: int = 0
    """The decision about this node that is carried out."""
    health: DeviceHealth = DeviceHealth()
    last_fault: str = ""
    """Why this device failed last, for a person."""
    last_fault_at: float = 0.0
    fallback: bool = False
    """The device does not serve; the CPU does its work meanwhile."""
    tokens_per_s: float = 0.0
    """Of all its streams, over the last seconds."""
    inferences_per_s: float = 0.0
    metrics: str = ""
    """The worker's own metrics in Prometheus text format."""


_decoder: msgspec.json.Decoder[NodeReport] = msgspec.json.Decoder(NodeReport)


def decode_report(raw: bytes) -> NodeReport:
    """Read a report. Raises msgspec.ValidationError."""
    return _decoder.decode(raw)


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """The few fields of a report by which jobs are sent and devices are placed: read often, of every node."""

    node: str
    pool: str
    at: float
    state: NodeState
    host: str = ""
    model: str = ""
    running: int = 0
    streams: int = 1
    general: bool = True
    routes: tuple[str, ...] = ()
    resident: tuple[str, ...] = ()
    loading: str = ""
    place_version: int = 0
    fallback: bool = False

    @property
    def left_alone(self) -> bool:
        """Its device is out of use after faults, and nothing does its work meanwhile."""
        return self.state == "quarantined" and not self.fallback

    @property
    def takes_jobs(self) -> bool:
        """Whether jobs are done there: also where the CPU does the work of a device that is left alone."""
        return self.state == "ready" or (self.state == "quarantined" and self.fallback)


_vitals: msgspec.json.Decoder[Vitals] = msgspec.json.Decoder(Vitals)


def read_vitals(raw: Iterable[bytes]) -> dict[str, Vitals]:
    """The reports as they stand in keys.NODES, by node; one of another version is left out."""
    found = {}
    for value in raw:
        try:
            vitals = _vitals.decode(value)
        except msgspec.DecodeError:
            continue
        found[vitals.node] = vitals
    return found
