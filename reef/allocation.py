"""How devices are given out among pools, personas and models: the `allocation` of queues.yaml as values.

Read by reef/topology.py; what a strategy makes of it is in reef/placement/. Nothing here knows a live worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from reef.abilities import CHAT_POOL, IN_WORDS

Strategy = Literal["dedicated", "dynamic", "pipeline"]
Count = Annotated[int, Meta(ge=0, le=100_000)]


class Dedicated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Each persona has devices of its own, services share some, and a reserve takes over from what dies."""

    personas: Annotated[int, Meta(ge=1, le=1000)] | list[str] = 1
    """So many (those talked to most), or their ids."""
    devices_per_persona: Annotated[int, Meta(ge=1)] = 1
    model: str = ""
    """Of the personas that name none; empty: the chat pool's."""
    services: dict[str, Count] = {}
    """Devices that a pool keeps for all, such as {embed: 8, media: 4}."""
    on_demand: list[str] | None = None
    """Services (None: media, where it is one) whose devices are loaded when the first job comes, not before."""
    reserve: Count = 0


class Dynamic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Devices move to where the demand is. The three counts are taken in this order; the rest is cold."""

    hot: Count = 1
    """Always loaded with the models used most."""
    warm: Count = 0
    """Hold the next models in memory and swap within two seconds."""
    bulk_pools: list[str] | None = None
    """What cold devices do until they are needed. None: embed and index, where there are such pools."""
    bulk_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """So much of all devices never leaves bulk work, however long the other queues are."""
    up_wait_s: Annotated[float, Meta(gt=0)] = 2.0
    """A queue whose next job would wait longer than this gets a device ..."""
    down_idle_s: Annotated[float, Meta(gt=0)] = 30.0
    """... and one whose devices were idle this long gives one back. The gap between the two stops any swinging."""
    settle_s: Annotated[float, Meta(gt=0)] = 5.0
    """A device that moved stays at least this long."""


class Pipeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model cut into segments, one per device, in the order of the devices."""

    model: str
    segments: Annotated[int, Meta(ge=2, le=256)]
    pool: str = "media"
    in_flight: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Inputs on their way at once; None: two for each segment."""


class Allocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `allocation` section."""

    strategy: Strategy
    devices: Annotated[list[str], Meta(min_length=1)]
    dedicated: Dedicated = Dedicated()
    dynamic: Dynamic = Dynamic()
    pipeline: Pipeline | None = None

    def check(self, devices: Sequence[Collection[str]], pools: Collection[str]) -> None:
        """Raises ValueError with what is wrong. `devices`: for each that is given out, the pools it can serve."""
        {"dedicated": self._check_dedicated, "dynamic": self._check_dynamic, "pipeline": self._check_pipeline}[
            self.strategy
        ](devices, pools)

    def _check_dedicated(self, devices: Sequence[Collection[str]], pools: Collection[str]) -> None:
        wanted = self.dedicated
        _known([*wanted.services, *(wanted.on_demand or ())], pools)
        personas = wanted.personas if isinstance(wanted.personas, int) else len(wanted.personas)
        needed = personas * wanted.devices_per_persona + sum(wanted.services.values()) + wanted.reserve
        if needed > len(devices):
            raise ValueError(
                f"dedicated needs {needed} devices ({personas} personas of {wanted.devices_per_persona}, services, "
                f"{wanted.reserve} in reserve); there are {len(devices)}."
            )
        seats = Counter({CHAT_POOL: personas * wanted.devices_per_persona}) + Counter(wanted.services)
        _able("dedicated", seats, devices)

    def _check_dynamic(self, devices: Sequence[Collection[str]], pools: Collection[str]) -> None:
        wanted = self.dynamic
        _known(wanted.bulk_pools or (), pools)
        if wanted.hot + wanted.warm > len(devices):
            raise ValueError(
                f"dynamic wants {wanted.hot} hot and {wanted.warm} warm devices; there are {len(devices)}."
            )
        _able("dynamic (hot and warm)", {CHAT_POOL: wanted.hot + wanted.warm}, devices)
        for pool in wanted.bulk_pools or ():
            _able("dynamic (bulk_pools)", {pool: 1}, devices)

    def _check_pipeline(self, devices: Sequence[Collection[str]], pools: Collection[str]) -> None:
        if self.pipeline is None:
            raise ValueError("strategy pipeline needs `pipeline: {model: ..., segments: ...}`.")
        _known([self.pipeline.pool], pools)
        if self.pipeline.segments > len(devices):
            raise ValueError(
                f"a pipeline of {self.pipeline.segments} segments needs as many devices, not {len(devices)}."
            )
        _able("pipeline", {self.pipeline.pool: self.pipeline.segments}, devices)


def _able(who: str, seats: Mapping[str, int], devices: Sequence[Collection[str]]) -> None:
    """Raises ValueError where these many devices for these pools cannot be found at once among those there are."""
    asked = [pool for pool, wanted in seats.items() if wanted]
    for size in range(1, len(asked) + 1):
        for chosen in combinations(asked, size):
            wanted = sum(seats[pool] for pool in chosen)
            able = sum(not set(chosen).isdisjoint(device) for device in devices)
            if wanted > able:
                needs = f"{wanted} {'device' if wanted == 1 else 'devices'} for {' and '.join(chosen)}"
                what = "that" if size == 1 else "any of them"
                raise ValueError(f"{who} needs {needs}; {able} of these {len(devices)} can serve {what}. {IN_WORDS}")


def _known(named: Collection[str], pools: Collection[str]) -> None:
    for name in named:
        if name not in pools:
            raise ValueError(f"there is no pool {name!r}; there are: {', '.join(pools)}.")
