"""Who may do what on a broker that is shared over a network: one Redis user a role, with the commands, keys and
channels that role needs and no others. Connects to nothing; `coral-reef acl` writes the file for the server.

Held against a running product by a test: under these rules nothing is refused, and a worker's password cannot empty
the broker, read its configuration or speak as the front door.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from reef import keys
from reef.topology import Topology

Role = Literal["web", "worker", "sweeper", "monitor"]
ROLES: tuple[Role, ...] = ("web", "worker", "sweeper", "monitor")
"""`monitor` is Flower: it may look into queues and ask workers how they are."""
ADMIN = "admin"
"""For the operator's own redis-cli; no process of the product uses it."""

_CONNECTION = "auth hello ping select client|setinfo client|setname client|id reset time"
_SCRIPTS = "eval evalsha script|load"
_TRANSACTION = "multi exec discard watch unwatch"
_SEND = f"lpush sadd smembers llen publish {_TRANSACTION}"
_LISTEN = "subscribe unsubscribe psubscribe punsubscribe"
_CONSUME = "brpop rpop rpush srem exists hset hget hdel hkeys zadd zrem zrevrangebyscore del"
_RUN_LOG = "xadd xrange xrevrange xlen expire"
_UPLOAD_LOG = f"{_SCRIPTS} set hmget hset"
_MOVE_HINTS = "lpop lrange lrem rpush srem"
_SEE_NODES = "get hget hgetall hlen hmget hvals"

_BINDINGS = "_kombu.binding.*"
_MAIL = ("celeryev*", "*.celery.pidbox*")
_CELERY = ("/0.celery.pidbox", "/0.celeryev/*", "/0.celeryev")
"""Queues and channels of Celery's events and of its remote control, in database 0."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What one role may do."""

    commands: str
    keys: tuple[str, ...]
    """Patterns; one that begins with %R~ may only be read."""
    channels: tuple[str, ...]


def rules(topology: Topology) -> dict[Role, Rule]:
    """What each role may do with the queues of this topology."""
    queues = tuple(f"{pool.queue}*" for pool in topology.pools.values())
    logs = (keys.run_events("*"), keys.upload_events("*"), keys.upload_at("*"), keys.upload_told("*"))
    told = (keys.run_channel("*"), keys.upload_channel("*"), keys.PLACEMENT_CHANNEL, keys.SYSTEM_CHANNEL)
    books = keys.unacked("*")
    routes = keys.routes_used("*")
    seen_affinity, seen_nodes, seen_history = (f"%R~{key}" for key in (keys.affinity("*"), keys.NODES, keys.HISTORY))
    return {
        "web": Rule(
            commands=f"{_CONNECTION} {_SEND} {_LISTEN} {_RUN_LOG} {_UPLOAD_LOG} {_SEE_NODES}",
            keys=(*queues, _BINDINGS, routes, *logs, seen_affinity, seen_nodes, seen_history),
            channels=(*told, keys.session_channel("*"), keys.STOP_CHANNEL, keys.UNLOAD_CHANNEL),
        ),
        "worker": Rule(
            commands=f"{_CONNECTION} {_SEND} {_LISTEN} {_CONSUME} {_RUN_LOG} {_UPLOAD_LOG} {_SEE_NODES} {_MOVE_HINTS}",
            keys=(
                *queues,
                keys.idle_queue("*"),
                routes,
                *_MAIL,
                _BINDINGS,
                *books,
                *logs,
                keys.affinity("*"),
                keys.NODES,
            ),
            channels=(*told, keys.STOP_CHANNEL, keys.UNLOAD_CHANNEL, *_CELERY),
        ),
        "sweeper": Rule(
            commands=f"{_CONNECTION} {_SEND} {_RUN_LOG} {_UPLOAD_LOG} {_SEE_NODES} {_MOVE_HINTS} hkeys hdel zrem",
            keys=(*queues, routes, _BINDINGS, *books, *logs, keys.NODES, keys.HISTORY, seen_affinity),
            channels=told,
        ),
        "monitor": Rule(
            commands=f"{_CONNECTION} {_SEND} {_LISTEN} {_CONSUME} info",
            keys=(*(f"%R~{queue}" for queue in queues), *_MAIL, _BINDINGS, *books),
            channels=_CELERY,
        ),
    }


def acl_file(topology: Topology, passwords: Mapping[str, str]) -> str:
    """The server's ACL file. It holds digests, no password; `passwords` has one for each role and for ADMIN."""
    lines = ["user default off", f"user {ADMIN} on {_digest(passwords[ADMIN])} ~* &* +@all"]
    for role, rule in rules(topology).items():
        named = [pattern if pattern.startswith("%") else f"~{pattern}" for pattern in rule.keys]
        heard = [f"&{pattern}" for pattern in dict.fromkeys(rule.channels)]
        allowed = [f"+{command}" for command in dict.fromkeys(rule.commands.split())]
        parts = ["on", _digest(passwords[role]), "resetkeys", *named, "resetchannels", *heard, "-@all", *allowed]
        lines.append(f"user {role} {' '.join(parts)}")
    return "\n".join(lines) + "\n"


def _digest(password: str) -> str:
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"
