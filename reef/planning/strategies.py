"""How each strategy of queues.yaml lays a model out on devices: units, reserve, or why it cannot. Simulates nothing."""

from __future__ import annotations

from typing import Literal

import msgspec

from reef.planning.curves import Curve
from reef.planning.devices import DeviceSet
from reef.planning.models import PlannedModel
from reef.planning.workload import Load

Strategy = Literal["dedicated", "dynamic", "pipeline"]
STRATEGIES: tuple[Strategy, ...] = ("dedicated", "dynamic", "pipeline")

SERVICES_SHARE = 12 / 96
"""The specification gives embedding 8 and vision and audio 4 of 96 devices."""
RESERVE_SHARE = 4 / 96
HOT_SHARE, WARM_SHARE = 32 / 96, 48 / 96
"""Its dynamic pool; the rest is cold."""
BULK_SHARE = 0.1
"""reef.allocation.Dynamic.bulk_share: so much of all devices never leaves bulk work."""
UP_WAIT_S, SETTLE_S = 2.0, 5.0
"""reef.allocation.Dynamic, as shipped."""


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that hold one copy of a model together."""

    devices: int
    curve: Curve
    route: int
    """The persona (dedicated) or the model it serves at first."""
    movable: bool = False
    """May take another model when somebody waits for it."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy on some devices."""

    strategy: Strategy
    units: tuple[Unit, ...]
    spares: int
    """Devices that take over from one that fails."""
    swap_s: float
    by_persona: bool
    """Turns are routed by persona; else by model."""
    held: bool
    """The devices of a unit hold all its weights."""

    @property
    def stages(self) -> int:
        """Devices of the largest unit."""
        return max(unit.devices for unit in self.units)


class Impossible(ValueError):
    """The strategy cannot be used here; the message says why."""


def lay_out(strategy: Strategy, model: PlannedModel, devices: DeviceSet, load: Load) -> Layout:
    """Raises Impossible."""
    total = devices.devices
    services = round(total * SERVICES_SHARE)
    if strategy == "dedicated":
        return _dedicated(model, devices, load, total - services)
    if strategy == "dynamic":
        return _dynamic(model, devices, load, total - services)
    return _pipeline(model, devices, load, total - services)


def _dedicated(model: PlannedModel, devices: DeviceSet, load: Load, free: int) -> Layout:
    reserve = round(devices.devices * RESERVE_SHARE)
    each = (free - reserve) // load.personas
    if each < 1:
        raise Impossible(f"{load.personas} personas cannot have devices of their own: {free - reserve} are free")
    each = _useful(each, model, devices)
    units = tuple(
        Unit(devices=each, curve=devices.curve(model, each), route=persona) for persona in range(load.personas)
    )
    return _layout("dedicated", units, model, devices, spares=free - each * load.personas, by_persona=True)


def _dynamic(model: PlannedModel, devices: DeviceSet, load: Load, free: int) -> Layout:
    # the devices of services are its cold ones: they do bulk work, and beyond the bulk share they come to help
    each = _useful(max(1, free // load.personas), model, devices)
    count = max(1, free // each)
    hot = max(1, round(count * HOT_SHARE / (HOT_SHARE + WARM_SHARE)))
    units = tuple(
        Unit(
            devices=each,
            curve=devices.curve(model, each),
            route=place % load.models,
            movable=load.models > 1 and (place >= hot or count <= load.models),
        )
        for place in range(count)
    )
    cold = max(0, devices.devices - each * count - round(devices.devices * BULK_SHARE))
    return _layout("dynamic", units, model, devices, spares=cold, by_persona=False)


def _pipeline(model: PlannedModel, devices: DeviceSet, load: Load, free: int) -> Layout:
    if devices.silicon is None or devices.kind != "edgetpu":
        raise Impossible("only models compiled for Edge TPUs can be cut into segments")
    if free < 2:
        raise Impossible("a pipeline needs two devices")
    if model.role == "decoder" and load.models > max(1, free // devices.hold(model)):
        raise Impossible(f"{load.models} models need as many pipelines; there is room for fewer")
    each = max(2, min(free, devices.hold(model)))
    units = tuple(
        Unit(devices=each, curve=devices.curve(model, each), route=place % load.models) for place in range(free // each)
    )
    return _layout("pipeline", units, model, devices, spares=free - each * len(units), by_persona=False)


def _useful(count: int, model: PlannedModel, devices: DeviceSet) -> int:
    """Devices of one unit: more than hold the weights would only add hops, and a CPU or GPU works alone."""
    return min(count, devices.hold(model)) if devices.kind == "edgetpu" else 1


def _layout(
    strategy: Strategy,
    units: tuple[Unit, ...],
    model: PlannedModel,
    devices: DeviceSet,
    *,
    spares: int,
    by_persona: bool,
) -> Layout:
    return Layout(
        strategy=strategy,
        units=units,
        spares=spares,
        swap_s=devices.swap_s(model, units[0].devices),
        by_persona=by_persona,
        held=units[0].devices >= devices.hold(model),
    )
