"""What a role does only now and then (a worker was lost, a conversation has a device of its own) is allowed to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from services import RedisServer

from reef import keys
from reef.broker_roles import ADMIN, ROLES, Role, acl_file
from reef.contracts.events import DocumentChanged
from reef.contracts.nodes import NodeReport, read_vitals
from reef.ledger import JobRecord
from reef.placement.presence import Watch
from reef.settings import Settings
from reef.streams import queue_upload_event
from reef.topology import Topology, load_topology
from tasks.dispatch import Dispatcher
from tasks.rescue import Rescue, restore_unacked
from workers.hints import Strays

QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: ['simulated:0', 'simulated:1'], engine: simulated, model: base, streams: 2}
"""
NODES = ("chat-simulated-0", "chat-simulated-1")
SESSION = "a-session"


class Broker:
    """A broker that knows the product's users, and who connects to it as one of them."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        queues = directory / "queues.yaml"
        queues.write_text(QUEUES, encoding="ascii")
        self.topology: Topology = load_topology(queues)
        self.base = Settings(data_dir=directory, queues_file=queues)
        self.url = server.url
        self.admin: Any = redis.Redis.from_url(server.url)
        for line in acl_file(self.topology, dict.fromkeys((*ROLES, ADMIN), "secret")).splitlines():
            _, name, *rules = line.split()
            if name in ROLES:
                self.admin.execute_command("ACL", "SETUSER", name, *rules)

    def settings(self, role: Role) -> Settings:
        """Settings of a process with that role's password."""
        url = self.url.replace("redis://", f"redis://{role}:secret@")
        node = {"web": "", "sweeper": "sweeper"}.get(role, NODES[0])
        return self.base.changed(redis_url=url, node=node)

    def client(self, role: Role) -> redis.Redis:
        """A connection of that role."""
        return redis.Redis.from_url(self.settings(role).redis_url)

    def report(self, node: str) -> None:
        """A worker says that it serves."""
        said = NodeReport(
            node=node,
            pool="chat",
            device=node,
            kind="simulated",
            host="here",
            pid=1,
            at=time.time(),
            state="ready",
            streams=2,
        )
        self.admin.hset(keys.NODES, node, msgspec.json.encode(said))


@pytest.fixture
def broker(own_redis: RedisServer, tmp_path: Path) -> Iterator[Broker]:
    """One of the test's own."""
    made = Broker(own_redis, tmp_path)
    yield made
    made.admin.close()


def job(name: str, token: int = 0) -> JobRecord:
    """One that waits."""
    return JobRecord(
        id=name,
        task="reef.chat.complete",
        pool="chat",
        payload="{}",
        state="queued",
        session_id=SESSION,
        token=token,
        attempts=token,
        attempts_max=3,
        owner=None,
        stop_requested=False,
        created_at=time.time(),
        started_at=None,
        finished_at=None,
        deadline_at=time.time() + 60,
        not_before=0.0,
        result=None,
        error=None,
    )


@pytest.mark.parametrize("role", ["web", "worker", "sweeper"])
def test_a_turn_is_sent_to_the_device_that_knows_the_conversation(broker: Broker, role: Role) -> None:
    """Whoever sends it: the device's own queue has the hint."""
    for node in NODES:
        broker.report(node)
    broker.admin.set(keys.affinity(SESSION), NODES[1])
    dispatcher = Dispatcher(broker.settings(role), broker.topology)
    dispatcher.send(job("one"))
    assert broker.admin.llen(keys.node_queue("chat", NODES[1])) == 1
    assert dispatcher.pending("chat") == 1
    dispatcher.redis.close()


@pytest.mark.parametrize("role", ["worker", "sweeper"])
def test_a_job_that_lost_its_worker_comes_first(broker: Broker, role: Role) -> None:
    """A supervisor and the sweeper alike may put it before those that wait."""
    dispatcher = Dispatcher(broker.settings(role), broker.topology)
    dispatcher.send_again(job("first-sent"))
    dispatcher.send_again(job("begun", token=1))
    assert b"begun" in broker.admin.lrange("chat", -1, -1)[0]
    dispatcher.redis.close()


@pytest.mark.parametrize("role", ["worker", "sweeper"])
def test_what_a_dead_worker_held_is_put_back(broker: Broker, role: Role) -> None:
    """Its unacknowledged messages, from kombu's own book of them."""
    book, index, _ = keys.unacked(NODES[0])
    entry = [{"body": "", "properties": {"delivery_info": {}}}, "chat", "chat"]
    broker.admin.hset(book, "tag", msgspec.json.encode(entry))
    broker.admin.zadd(index, {"tag": time.time()})
    with broker.client(role) as client:
        assert restore_unacked(client, NODES[0]) == 1
    assert broker.admin.llen("chat") == 1
    assert not broker.admin.exists(book, index)


def test_the_sweeper_moves_hints_that_nobody_looks_at(broker: Broker) -> None:
    """Of a node that is gone, and of a route that nobody serves."""
    broker.report(NODES[0])
    broker.admin.sadd(keys.routes_used("chat"), "lost")
    broker.admin.lpush(keys.route_queue("chat", "lost"), "hint")
    with broker.client("sweeper") as client:
        watch = Watch()
        watch.see(read_vitals(broker.admin.hvals(keys.NODES)))
        assert Rescue(client, broker.topology).look(watch) == 1
    assert broker.admin.lrange("chat", 0, -1) == [b"hint"]


def test_a_worker_moves_the_hints_of_a_queue_it_left(broker: Broker) -> None:
    """They go to the queue that all of the pool serve."""
    left = keys.route_queue("chat", "left")
    hint = {"body": "", "properties": {"delivery_info": {}}}
    broker.admin.lpush(left, msgspec.json.encode(hint))
    with broker.client("worker") as client:
        strays = Strays(client, NODES[0])
        strays.left(left, "chat", "chat")
        strays.move()
    assert broker.admin.llen("chat") == 1
    assert not broker.admin.llen(left)


@pytest.mark.parametrize("role", ["web", "worker", "sweeper"])
def test_a_document_of_an_upload_is_told_of(broker: Broker, role: Role) -> None:
    """Once for each word about it."""
    event = DocumentChanged(upload_id="upload", document_id="document", name="a.txt", state="indexed", at=1.0)
    with broker.client(role) as client:
        pipeline = client.pipeline(transaction=False)
        queue_upload_event(pipeline, "upload", event)
        queue_upload_event(pipeline, "upload", event)
        first, second = pipeline.execute()
    assert first
    assert second is None
