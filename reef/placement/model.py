"""A device's place: what its worker should serve. Decided by reef/placement, stored in the database, obeyed by workers.

A worker compares its place with what it does and mends the difference; nothing is ever told to it once only. So a
decision survives the death of worker, broker and whoever made it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Tier = Literal["pool", "hot", "warm", "cold", "dedicated", "service", "reserve", "stage"]
"""Why a device is where it is. `pool`: queues.yaml names it there, only its model can change. `stage`: one segment of
a pipeline."""


_SEGMENT = "\x1f"
"""Stands in no model's and no node's name."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker of one device should serve."""

    node: str
    pool: str = ""
    """Empty: nothing, the device waits."""
    model: str = ""
    """Empty: the pool's own."""
    tier: Tier = "pool"
    general: bool = True
    """Takes any job of the pool. Otherwise only those of its routes."""
    routes: tuple[str, ...] = ()
    """Jobs that ask for one of these (reef.ledger JobRecord.route) come here: `model/NAME`, `persona/ID`."""
    resident: tuple[str, ...] = ()
    """Models to keep in memory beside the one that serves, so that a swap takes no loading."""
    stage: int = 0
    """Segment of a pipeline, from 0."""
    peers: tuple[str, ...] = ()
    """Nodes of the whole pipeline, in order."""
    reason: str = ""
    """A sentence for the operator."""
    decided_by: str = ""
    """`operator`, `controller` or `queues.yaml`."""
    version: int = 0
    """Grows with every decision about this node."""
    decided_at: float = 0.0


def stage_name(place: Place) -> str:
    """A segment of a pipeline as one text, told apart from whole models and from the same segment among others."""
    return f"{place.model}{_SEGMENT}{place.stage}{_SEGMENT}{','.join(place.peers)}"


def stage_of(name: str) -> Place | None:
    """The place (without its node) that `stage_name` wrote down; None for the name of a whole model."""
    model, *rest = name.split(_SEGMENT)
    if len(rest) != 2:
        return None
    return Place(node="", model=model, tier="stage", stage=int(rest[0]), peers=tuple(rest[1].split(",")))


def model_route(model: str) -> str:
    """Route of jobs that want this model."""
    return f"model/{model}"


def persona_route(persona_id: str) -> str:
    """Route of jobs of a persona that has devices of its own."""
    return f"persona/{persona_id}"
