"""How the reef stands now and how it stood in the last hour."""

from __future__ import annotations

from app.api.shapes import HistoryQuery, SampleList
from app.web import Call
from reef import keys
from reef.contracts.system import SystemStatus
from reef.observing import history as last_hour


def status(call: Call) -> SystemStatus:
    """Version, model, pools, devices and queues."""
    return call.services.status.take()


def history(call: Call) -> SampleList:
    """The last hour: what waited and ran in each pool, the wait, its devices, tokens and inferences a second."""
    query: HistoryQuery = call.query
    return SampleList(step_s=keys.HISTORY_STEP_S, samples=last_hour.read(call.services.redis, query.after))
