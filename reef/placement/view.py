"""What a strategy looks at, and what the strategies share. Values and arithmetic only: no database, no broker.

A strategy is a function of a View: the same view gives the same places, whoever leads. What must be remembered between
two rounds stands in the places themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from reef.abilities import ABLE, CONDITIONAL
from reef.placement.model import Place
from reef.placement.presence import Presence

MODEL_PREFIX = "model/"
PERSONA_PREFIX = "persona/"
OPERATOR = "operator"
CONTROLLER = "controller"
RESIDENT_MAX = 2
"""Models that a device keeps in memory beside the one that serves."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the strategy gives out, as its worker reports it."""

    node: str
    host: str = ""
    presence: Presence = "alive"
    idle_s: float = 0.0
    resident: tuple[str, ...] = ()
    """Models it has in memory now."""
    able: Mapping[str, int] | None = None
    """Pools that its kind can serve, with how well that suits it (reef/abilities.py); None: every one."""

    def serves(self, pool: str) -> bool:
        """Whether a device of its kind can serve this pool."""
        return self.able is None or pool in self.able

    def rank(self, pool: str) -> int:
        """How well it suits this pool, the best first."""
        return ABLE if self.able is None else self.able.get(pool, CONDITIONAL)

    @property
    def alive(self) -> bool:
        return self.presence == "alive"

    @property
    def gone(self) -> bool:
        return self.presence == "gone"


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """How much one route of a pool is asked for."""

    pool: str
    route: str = ""
    queued: int = 0
    running: int = 0
    waited_s: float = 0.0
    """So long the next job has waited."""
    recent: int = 0
    """Jobs done in the last hour."""
    idle_s: float = 1e9
    """Since its last job ended; 0 while there is one."""


class PoolSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A pool, and what it has without the strategy."""

    name: str
    model: str = ""
    streams: int = 1
    job_s: float | None = None
    own: int = 0
    """Devices that queues.yaml gives it for good and that serve now."""
    keeps: bool = False
    """Whether queues.yaml gives it any for good."""


class Speaker(msgspec.Struct, frozen=True):
    """A persona, and the model it asks for (empty: its pool's)."""

    id: str
    model: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a strategy may look at."""

    devices: tuple[Seen, ...]
    """In the order of queues.yaml."""
    pools: Mapping[str, PoolSeen]
    places: Mapping[str, Place] = {}
    needs: tuple[Need, ...] = ()
    personas: tuple[Speaker, ...] = ()
    now: float = 0.0

    def free(self) -> list[Seen]:
        """Devices about which no operator has decided."""
        return [device for device in self.devices if not self.held(device.node)]

    def held(self, node: str) -> bool:
        """Whether an operator has decided about this node."""
        place = self.places.get(node)
        return place is not None and place.decided_by == OPERATOR

    def kept(self) -> list[Place]:
        """What operators decided: it stays as it is."""
        return [self.places[device.node] for device in self.devices if self.held(device.node)]

    def place(self, node: str) -> Place:
        """A node's place, or one without anything where nobody ever decided."""
        return self.places.get(node) or Place(node=node)

    def stays(self, node: str) -> float:
        """How long it has been where it is."""
        return self.now - self.place(node).decided_at

    def needs_of(self, pool: str) -> list[Need]:
        """What is asked of a pool, by route."""
        return [need for need in self.needs if need.pool == pool]


def decide(view: View, node: str, reason: str, **fields: object) -> Place:
    """A decision of ours about a node, made from the one that stands."""
    version = view.place(node).version
    plain = {"node": node, "version": version, "reason": reason, "decided_by": CONTROLLER}
    return Place(**(plain | fields))  # type: ignore[arg-type]


def nearest(spares: Iterable[Seen], hosts: Mapping[str, int], model: str = "", pool: str = "") -> list[Seen]:
    """Spare devices, the best first: those that are there, whose kind suits the pool, on the host with most of the
    others, with the model."""
    order = list(spares)
    return sorted(
        order,
        key=lambda device: (
            {"alive": 0, "unknown": 1, "gone": 2}[device.presence],
            device.rank(pool),
            -hosts.get(device.host, 0),
            bool(model) and model not in device.resident,
            order.index(device),
        ),
    )


def count(amount: int, what: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{amount} {what}" if amount == 1 else f"{amount} {what}s"
