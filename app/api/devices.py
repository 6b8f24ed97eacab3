"""Where devices should serve, as the operator decides it. Workers obey the decision by themselves (reef/placement)."""

from __future__ import annotations

from app.api.shapes import PlaceRequest
from app.web import Answer, Call


def place(call: Call, node: str) -> Answer:
    """Let a device serve a pool, with a model; the decision holds until it is taken back or another is made.

    A device that queues.yaml names in a pool stays in that pool: only its model can be chosen. The model must be here
    and fit the pool and the kind of device; `models/load` fetches one first.
    """
    wanted: PlaceRequest = call.body
    decided = call.services.models.keeping.decisions.move(node, pool=wanted.pool, model=wanted.model)
    return Answer(status=202, body=decided)


def forget_place(call: Call, node: str) -> Answer:
    """Take back what an operator decided about a device: it does again what queues.yaml or its strategy says."""
    call.services.models.keeping.decisions.release(node)
    return Answer(status=204)
