"""The models: what there is and where, loading, unloading and removing them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from app.model_desk import Loading, Unloaded
from app.web import Answer, Call
from reef.contracts.frames import Identifier
from reef.models.states import ModelsView

NODES_MAX = 1000
ModelName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Nodes = Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(max_length=NODES_MAX)]


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that devices should serve: a name, or `base+adapter@scale`.

    `source` is an http(s) address for a model that is neither here nor in the catalogue.
    """

    model: ModelName
    pool: Identifier = "chat"
    nodes: Nodes = []
    source: Annotated[str, Meta(max_length=2000)] = ""
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""


class UnloadRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that devices should let go of."""

    model: ModelName
    pool: Identifier = "chat"
    nodes: Nodes = []


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a model stays on the disk whatever else needs room."""

    pinned: bool


def list_all(call: Call) -> ModelsView:
    """Every model: format, size, licence, state, and in which device's memory it is."""
    return call.services.models.overview()


def load(call: Call) -> Answer:
    """Have devices of a pool serve a model; it is fetched first where it is not here. Twice is as good as once.

    Progress is told on the system channel and stands in the list. Devices go on serving until the new one is ready.
    """
    body: LoadRequest = call.body
    loading: Loading = call.services.models.load(body.model, body.pool, body.nodes, body.source, body.sha256)
    return Answer(status=202, body=loading)


def unload(call: Call) -> Answer:
    """Give back what an operator had loaded: devices do again what queues.yaml or their strategy says.

    Refused where no device of the pool has the model by an operator's decision, or nobody knows the model.
    """
    body: UnloadRequest = call.body
    unloaded: Unloaded = call.services.models.unload(body.model, body.pool, body.nodes)
    return Answer(status=202, body=unloaded)


def remove(call: Call, name: str) -> Answer:
    """Take a model from the disk. Refused while it is loaded, pinned, named in queues.yaml or being fetched."""
    call.services.models.remove(name)
    return Answer(status=204)


def pin(call: Call, name: str) -> Answer:
    """Keep a model on the disk whatever else needs room, or no longer. Twice is as good as once."""
    body: PinRequest = call.body
    call.services.models.pin(name, pinned=body.pinned)
    return Answer(status=204)
