"""Every Redis key and channel of the product, spelled here and nowhere else.

| key                       | type    | writer                  | reader        | lifetime                         |
|---------------------------|---------|-------------------------|---------------|----------------------------------|
| reef:run:<id>:events      | stream  | web (queued), worker    | web           | capped; RUN_EVENTS_TTL_S         |
| reef:run:<id>             | channel | web, worker, sweeper    | web           | live only                        |
| reef:session:<id>         | channel | web                     | web           | live only                        |
| reef:upload:<id>:events   | stream  | web, worker, sweeper    | web           | capped; UPLOAD_EVENTS_TTL_S      |
| reef:upload:<id>          | channel | web, worker, sweeper    | web           | live only                        |
| reef:upload:<id>:at       | hash    | web, worker, sweeper    | the same      | as the stream: a file's last word|
| reef:upload:<id>:told     | string  | web, worker, sweeper    | the same      | UPLOAD_TOLD_MS: one telling each |
| reef:stop                 | channel | web                     | every worker  | live only; the ledger has it too |
| reef:nodes                | hash    | worker (heartbeat)      | web, cli      | a field is stale after NODE_TTL_S|
| reef:routes:<queue>       | set     | dispatcher              | dispatcher, sweeper | until its queue is empty    |
| reef:placement            | channel | controller, web         | every worker  | live only; the database has it   |
| reef:system               | channel | web, worker, sweeper    | web           | live only; status has it too     |
| reef:system:history       | stream  | sweeper                 | web           | capped; HISTORY_MAX              |
| reef:affinity:<session>   | string  | worker (after a turn)   | dispatcher    | AFFINITY_TTL_S                   |
| unacked:<node> (and _index, _mutex) | hash, zset, string | kombu | recovery | until the worker acknowledges  |
| <queue>, <queue>.<node>, <queue>/<route> | list | kombu        | kombu         | until consumed                   |
| idle.<node>               | list    | nobody                  | kombu         | what a worker waits at           |
"""

from __future__ import annotations

RUN_EVENTS_TTL_S = 3600
"""A run's events can be replayed this long after its last one; afterwards the database answers."""
RUN_EVENTS_MAX = 10_000
"""Longest event log of one run."""
UPLOAD_EVENTS_TTL_S = 3600
"""What happened in an upload can be replayed this long after its last event; the database has the outcome."""
UPLOAD_EVENTS_MAX = 5_000
"""Longest event log of one upload."""
UPLOAD_TOLD_MS = 250
"""An upload's counts are told at most once in this time, by whichever process comes first."""
NODE_TTL_S = 6.0
"""A worker that was silent longer counts as gone."""
AFFINITY_TTL_S = 3600

NODES = "reef:nodes"
STOP_CHANNEL = "reef:stop"
PLACEMENT_CHANNEL = "reef:placement"
"""A message is the name of a node about which something was decided."""
UNLOAD_CHANNEL = "reef:unload"
"""A message is the name of a node and of a model that it holds though no place says so: `NODE MODEL`."""
SYSTEM_CHANNEL = "reef:system"
"""Models being fetched and loaded, devices failing and coming back: events for the operator's page."""
HISTORY = "reef:system:history"
HISTORY_STEP_S = 10.0
HISTORY_MAX = 360
"""Entries of the history: one hour."""


def run_events(run_id: str) -> str:
    """Stream of a run's numbered events."""
    return f"reef:run:{run_id}:events"


def run_channel(run_id: str) -> str:
    """Channel on which a run's events are announced as they happen."""
    return f"reef:run:{run_id}"


def session_channel(session_id: str) -> str:
    """Channel on which the runs that start in a session are announced."""
    return f"reef:session:{session_id}"


def upload_events(upload_id: str) -> str:
    """Stream of what happened in an upload."""
    return f"reef:upload:{upload_id}:events"


def upload_channel(upload_id: str) -> str:
    """Channel on which an upload's events are announced as they happen."""
    return f"reef:upload:{upload_id}"


def upload_at(upload_id: str) -> str:
    """When each document of an upload was last told to have changed."""
    return f"reef:upload:{upload_id}:at"


def upload_told(upload_id: str) -> str:
    """There while the counts of this upload were told a moment ago."""
    return f"reef:upload:{upload_id}:told"


def affinity(session_id: str) -> str:
    """Node that holds the session's prompt cache."""
    return f"reef:affinity:{session_id}"


def unacked(node: str) -> tuple[str, str, str]:
    """kombu's book of unacknowledged messages of one worker: hash, index, mutex."""
    return f"unacked:{node}", f"unacked_index:{node}", f"unacked_mutex:{node}"


def node_queue(queue: str, node: str) -> str:
    """Queue that only one worker consumes, for turns whose prompt cache it holds."""
    return f"{queue}.{node}"


def route_queue(queue: str, route: str) -> str:
    """Queue of the jobs of a pool that only some of its devices should serve."""
    return f"{queue}/{route}"


def idle_queue(node: str) -> str:
    """Queue of a worker that serves no pool now: it must wait at one, and nobody sends anything there."""
    return f"idle.{node}"


def queue_rank(name: str) -> int:
    """In which order a worker takes from its queues: what only it can do well, then what only few can, then the rest.

    A pool's queue has neither a point nor a slash in its name (reef/topology.py).
    """
    if "/" in name:
        return 1
    return 0 if "." in name else 2


def routes_used(queue: str) -> str:
    """Routes on whose queues hints of this pool may lie."""
    return f"reef:routes:{queue}"
