"""Devices under a strategy, their places, and a clock: what the tests of strategies look at in rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from reef.allocation import Allocation, Dedicated, Dynamic, Pipeline
from reef.placement.controller import decide_all
from reef.placement.model import Place
from reef.placement.store import same
from reef.placement.view import Need, PoolSeen, Seen, Speaker, View

POOLS = {
    "chat": PoolSeen(name="chat", model="base", streams=2, job_s=0.5),
    "embed": PoolSeen(name="embed", model="encoder", streams=2, job_s=0.5),
    "index": PoolSeen(name="index", streams=2, job_s=0.5),
    "media": PoolSeen(name="media", model="vision", streams=1, job_s=0.5),
}
PERSONAS = tuple(Speaker(f"p{n}", "" if n % 3 else f"model{n // 3}") for n in range(12))
SIZES = (8, 48, 96)


def plan_of(strategy: str, size: int) -> Allocation:
    """The specification's shares, at any size."""
    devices = [f"simulated:0-{size - 1}"]
    if strategy == "dedicated":
        plan = {
            8: Dedicated(personas=2, devices_per_persona=2, services={"embed": 1, "media": 1}, reserve=2),
            48: Dedicated(personas=5, devices_per_persona=7, services={"embed": 6, "media": 3}, reserve=4),
            96: Dedicated(personas=10, devices_per_persona=8, services={"embed": 8, "media": 4}, reserve=4),
        }[size]
        return Allocation(strategy="dedicated", devices=devices, dedicated=plan)
    if strategy == "dynamic":
        plan = Dynamic(hot=size // 3, warm=size // 2, bulk_share=0.1)  # type: ignore[assignment]
        return Allocation(strategy="dynamic", devices=devices, dynamic=plan)  # type: ignore[arg-type]
    segments = {8: 3, 48: 5, 96: 8}[size]
    return Allocation(strategy="pipeline", devices=devices, pipeline=Pipeline(model="net", segments=segments))


class World:
    """Devices, their places, and a clock."""

    def __init__(self, strategy: str, size: int, hosts: int = 2) -> None:
        self.plan = plan_of(strategy, size)
        self.now = 1000.0
        self.devices = [Seen(node=f"d{n}", host=f"h{n * hosts // size}") for n in range(size)]
        self.places: dict[str, Place] = {}
        self.needs: tuple[Need, ...] = ()
        self.moves = 0

    def view(self) -> View:
        return View(
            devices=tuple(self.devices),
            pools=POOLS,
            places=self.places,
            needs=self.needs,
            personas=PERSONAS,
            now=self.now,
        )

    def round(self, passes_s: float = 0.5) -> list[Place]:
        """One look; gives what changed."""
        self.now += passes_s
        places = decide_all(self.plan, self.view())
        changed = []
        for place in places:
            known = self.places.get(place.node)
            assert place.version == (known.version if known else 0)
            if known is None or not same(known, place):
                changed.append(place)
                self.places[place.node] = msgspec.structs.replace(place, version=place.version + 1, decided_at=self.now)
        assert Counter(place.node for place in places) == Counter(device.node for device in self.devices)
        assert all(place.reason for place in places)
        return changed

    def settle(self) -> None:
        """Look until nothing changes any more."""
        for _ in range(10):
            if not self.round():
                return
        raise AssertionError("it never comes to rest")

    def set(self, nodes: Iterable[str], **fields: object) -> None:
        """These devices are seen like this from now on."""
        chosen = set(nodes)
        self.devices = [
            msgspec.structs.replace(device, **fields) if device.node in chosen else device for device in self.devices
        ]

    @property
    def alive(self) -> set[str]:
        return {device.node for device in self.devices if device.alive}
