"""Decisions in the database, hints in the broker: who leads, where a hint goes, what an operator may do."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from click.testing import CliRunner
from services import RedisServer

from cli.main import main
from reef import keys
from reef.contracts.jobs import CompletionJob
from reef.contracts.nodes import NodeReport, read_vitals
from reef.conversation.turns import PoolClosed, Turns
from reef.ledger import JobRecord, Ledger, NewJob
from reef.ledger.sweep import sweep
from reef.models import ModelStore
from reef.placement.controller import Controller
from reef.placement.leader import LEASE_S, Leader
from reef.placement.model import Place
from reef.placement.operator import Decisions, NotMovable
from reef.placement.presence import Watch
from reef.placement.serving import Capacity, is_served
from reef.placement.store import Outdated, PlacementStore
from reef.records.database import Database, migrate
from reef.records.tables import personas
from reef.settings import Settings
from reef.topology import Topology, load_topology
from tasks.dispatch import Dispatcher
from tasks.rescue import Rescue
from workers.devices.memory import DeviceMemory

QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: [cpu], engine: simulated, model: base, streams: 2}
  embed: {queue: embed, engine: simulated, model: encoder}
  media: {queue: media, engine: simulated}
allocation:
  strategy: dedicated
  devices: ['simulated:0-5']
  dedicated: {personas: [alice, bob], devices_per_persona: 2, services: {embed: 1}, reserve: 1}
"""


class Bench:
    """A database, a broker and a queues.yaml, with no process at all."""

    def __init__(self, directory: Path, redis_url: str, queues: str = QUEUES) -> None:
        path = directory / "queues.yaml"
        path.write_text(queues, encoding="utf-8")
        self.settings = Settings(data_dir=directory, redis_url=redis_url, queues_file=path, node="bench")
        migrate(self.settings.sqlalchemy_url)
        self.topology: Topology = load_topology(path)
        self.database = Database(self.settings.sqlalchemy_url)
        self.ledger = Ledger(self.database)
        self.store = PlacementStore(self.database)
        self.decisions = Decisions(self.store, self.topology, ModelStore(directory))
        self.redis = redis.Redis.from_url(redis_url)
        self.redis.flushall()
        self.dispatcher = Dispatcher(self.settings, self.topology)

    def controller(self, holder: str = "one") -> Controller:
        return Controller(self.topology, self.database, self.redis, Watch(), holder)

    def report(self, node: str, **fields: Any) -> None:
        """A worker's word."""
        base = {"device": node, "kind": "simulated", "host": "h", "pid": 1, "at": time.time(), "state": "ready"}
        report = NodeReport(**({"node": node, "pool": "chat"} | base | fields))  # type: ignore[arg-type]
        self.redis.hset(keys.NODES, node, msgspec.json.encode(report))  # type: ignore[arg-type]
        self.dispatcher._reports = (0.0, {})  # as if a moment had passed

    def accept(self, route: str | None = None, session_id: str | None = None) -> JobRecord:
        """A job in the ledger, not sent yet."""
        job = CompletionJob(messages=[], tokens_max=1)
        new = NewJob(job=job, deadline_s=60, attempts_max=3, route=route, session_id=session_id)
        with self.database.write() as connection:
            return self.ledger.submit(connection, new, waiting_max=100, streams=1)

    def watch(self) -> Watch:
        """A watch that has just read the reports; however slow this machine is, nobody falls silent meanwhile."""
        watch = Watch(speed=0.01)
        watch.see(read_vitals(self.redis.hvals(keys.NODES)))  # type: ignore[arg-type]
        return watch

    def hints(self, queue: str) -> list[str]:
        """Jobs whose hints lie on a queue, the next one last."""
        return [json.loads(raw)["headers"]["id"] for raw in self.redis.lrange(queue, 0, -1)]  # type: ignore[union-attr]


@pytest.fixture
def bench(tmp_path: Path, own_redis: RedisServer) -> Iterator[Bench]:
    """One of our own."""
    made = Bench(tmp_path, own_redis.url)
    yield made
    made.redis.close()
    made.dispatcher.redis.close()
    made.dispatcher.celery.close()
    made.database.dispose()


# --- who decides


def test_one_of_two_controllers_leads_and_the_other_takes_over(any_database: Database) -> None:
    """The lease is a row: a second one waits, goes on when it runs out, and the first then knows that it lost."""
    now = [1000.0]
    first, second = (Leader(any_database, "x", name, lambda: now[0]) for name in ("first", "second"))
    assert first.holds()
    assert not second.holds()
    now[0] += LEASE_S + 0.1
    assert second.holds()
    assert not first.holds()
    second.leave()
    assert first.holds()


def test_decisions_are_stored_announced_and_found_again(bench: Bench) -> None:
    """A controller places every device once; a later one finds the rows and changes nothing."""
    with bench.redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(keys.PLACEMENT_CHANNEL)
        channel.get_message(timeout=5)
        made = bench.controller().look()
        told = {channel.get_message(timeout=5)["data"].decode() for _ in made}
    assert told == {f"simulated-{n}" for n in range(6)} == set(bench.store.all())
    later = bench.controller("two")
    assert later.look() == [], "the first one still leads"
    again = bench.controller("one")
    assert again.look() == [], "it goes on where it was"
    assert {place.version for place in bench.store.all().values()} == {1}


def test_a_controller_that_saw_an_older_decision_looks_again(bench: Bench) -> None:
    """An operator who is faster wins; nothing of the outdated round is stored."""
    controller = bench.controller()
    controller.look()
    view = controller.view()
    bench.decisions.move("simulated-0", pool="media")
    with pytest.raises(Outdated):
        bench.store.put([msgspec.structs.replace(view.places["simulated-0"], pool="embed")])
    assert bench.store.all()["simulated-0"].pool == "media"
    controller.look()
    assert bench.store.all()["simulated-0"].decided_by == "operator"


def test_places_of_devices_that_queues_yaml_lost_are_forgotten(bench: Bench) -> None:
    """A row of a device that is not there any more is no decision."""
    bench.store.put([Place(node="pci-99", pool="chat", reason="old")])
    bench.controller().look()
    assert "pci-99" not in bench.store.all()


# --- where a hint goes


def test_a_route_that_is_served_has_its_own_queue(bench: Bench) -> None:
    """The job goes to the devices of its persona, else to any; both are counted."""
    bench.report("chat-cpu")
    bench.report("simulated-0", routes=("persona/alice",), general=False)
    mine, others = bench.accept("persona/alice"), bench.accept("persona/carol")
    bench.dispatcher.send(mine)
    bench.dispatcher.send(others)
    assert bench.hints("chat/persona/alice") == [mine.id]
    assert bench.hints("chat") == [others.id]
    assert bench.dispatcher.pending("chat") == 2


def test_the_prompt_cache_of_a_device_that_went_over_to_others_is_not_asked(bench: Bench) -> None:
    """A session's next turn goes to its device as long as that serves such jobs, and to the others afterwards."""
    bench.redis.set(keys.affinity("s1"), "simulated-0")
    bench.report("simulated-0", routes=("persona/alice",), general=False)
    first = bench.accept("persona/alice", "s1")
    bench.dispatcher.send(first)
    assert bench.hints("chat.simulated-0") == [first.id]
    bench.report("simulated-0", routes=("persona/bob",), general=False)
    second = bench.accept("persona/alice", "s1")
    bench.dispatcher.send(second)
    assert bench.hints("chat") == [second.id]


def test_hints_of_the_dead_move_to_a_queue_that_is_consumed(bench: Bench) -> None:
    """What lies on the queue of a dead worker or of a route without devices goes to the pool's queue, in order."""
    bench.report("chat-cpu")
    bench.report("simulated-0", routes=("persona/alice",), general=False)
    bench.redis.set(keys.affinity("s1"), "simulated-0")
    sent = [bench.accept("persona/alice"), bench.accept("persona/alice"), bench.accept("persona/alice", "s1")]
    for record in sent:
        bench.dispatcher.send(record)
    rescue = Rescue(bench.redis, bench.topology)
    watch = bench.watch()
    assert rescue.look(watch) == 0, "everything is where somebody looks"
    bench.redis.hdel(keys.NODES, "simulated-0")
    watch.see(read_vitals(bench.redis.hvals(keys.NODES)))  # type: ignore[arg-type]
    assert rescue.look(watch) == 3
    assert sorted(bench.hints("chat")) == sorted(record.id for record in sent)
    of_route = [job_id for job_id in bench.hints("chat") if job_id != sent[2].id]
    assert of_route == [sent[1].id, sent[0].id], "the older one is the next one"
    assert bench.dispatcher.pending("chat") == 3


def test_hints_of_a_pool_that_only_routes_serve_go_to_one_of_them(bench: Bench) -> None:
    """Where nobody takes just any job, one of the devices that are there gets it rather than nobody."""
    bench.report("simulated-0", routes=("persona/alice",), general=False)
    lost = bench.accept()
    bench.dispatcher.send(lost)
    assert Rescue(bench.redis, bench.topology).look(bench.watch()) == 1
    assert bench.hints("chat/persona/alice") == [lost.id]


def test_a_hint_on_a_route_queue_is_not_sent_again(bench: Bench) -> None:
    """The sweeper counts the hints of all queues of a pool: a long queue does not fill up with copies of itself."""
    bench.report("simulated-0", routes=("persona/alice",))
    record = bench.accept("persona/alice")
    bench.dispatcher.send(record)
    sent: list[str] = []
    ledger = Ledger(bench.database, clock=lambda: time.time() + 30)
    sweep(ledger, lambda job: sent.append(job.id), bench.dispatcher.pending)
    assert sent == []
    bench.redis.delete("chat/persona/alice")
    sweep(ledger, lambda job: sent.append(job.id), bench.dispatcher.pending)
    assert sent == [record.id]


# --- pools that live by what is given out


def test_a_pool_without_devices_of_its_own_is_open_where_the_strategy_serves_it(bench: Bench) -> None:
    """Embed is served by the strategy, media by nobody; capacity counts what was given out."""
    assert is_served(bench.topology, "embed")
    assert not is_served(bench.topology, "media")
    capacity = Capacity(bench.topology, bench.database)
    assert capacity.streams(bench.topology.pool("embed")) == 1, "one at least before anything is decided"
    bench.controller().look()
    fresh = Capacity(bench.topology, bench.database)
    assert fresh.devices(bench.topology.pool("chat")) == 1 + 4 + 1
    assert fresh.streams(bench.topology.pool("chat")) == 12


def test_a_device_that_is_left_alone_shortens_no_wait(bench: Bench) -> None:
    """It counts again when it works, or where the CPU does its work; the one of that name elsewhere is another."""
    own, name = socket.gethostname(), "usb:0"
    text = "version: 1\npools:\n  chat: {queue: chat, devices: [cpu, 'usb:0', 'usb:0@beta'], streams: 2}\n"
    path = bench.settings.data_dir / "left-alone.yaml"

    def streams(text: str = text) -> int:
        path.write_text(text, encoding="utf-8")
        topology = load_topology(path)
        return Capacity(topology, bench.database).streams(topology.pool("chat"))

    memory = DeviceMemory(bench.database, own, clock=lambda: time.time() + 600)  # it is left alone for long
    assert streams() == 6
    memory.fault(name, "it hung", at=time.time(), quarantine=False)
    assert streams() == 6
    memory.fault(name, "it hung", at=time.time())
    assert streams() == 4
    assert streams(text.replace("streams: 2", "streams: 2, cpu_fallback: true")) == 6
    memory.healthy(name)
    assert streams() == 6


def test_turns_carry_the_route_of_their_persona(bench: Bench) -> None:
    """With devices per persona the route names the persona; otherwise the model it wants, where that is another."""
    turns = Turns(bench.database, bench.ledger, bench.topology)
    assert turns.say("alice", "hello").run.route == "persona/alice"
    plain = Topology(bench.topology.pools)
    others = Turns(bench.database, bench.ledger, plain)
    assert others.say("bob", "hello").run.route is None
    with bench.database.write() as connection:
        connection.execute(personas.update().where(personas.c.id == "carol").values(model="other"))
    assert others.say("carol", "hello").run.route == "model/other"
    completion = CompletionJob(messages=[], tokens_max=1, persona_id="carol")
    assert others.complete(completion).route == "model/other"
    assert others.complete(CompletionJob(messages=[], tokens_max=1)).route is None
    closed = {name: msgspec.structs.replace(pool, devices=()) for name, pool in bench.topology.pools.items()}
    with pytest.raises(PoolClosed):
        Turns(bench.database, bench.ledger, Topology(closed)).say("bob", "hello")


# --- the operator


def test_an_operator_moves_a_device_and_gives_it_back(bench: Bench) -> None:
    """The decision stands against the controller until it is released."""
    controller = bench.controller()
    controller.look()
    before = bench.store.all()["simulated-1"]
    moved = bench.decisions.move("simulated-1", pool="chat", model="other", alone=True)
    assert (moved.routes, moved.general) == (("model/other",), False)
    controller.look()
    assert bench.store.all()["simulated-1"].model == "other"
    bench.decisions.release("simulated-1")
    for _ in range(3):
        controller.look()
    after = bench.store.all()["simulated-1"]
    assert after.decided_by == "controller"
    assert after.model == before.model


def test_a_device_of_a_pool_keeps_its_pool(bench: Bench) -> None:
    """Only its model can be changed; releasing it gives the pool's own model back."""
    with pytest.raises(NotMovable, match="belongs to pool chat for good"):
        bench.decisions.move("chat-cpu", pool="embed")
    changed = bench.decisions.move("chat-cpu", model="other")
    assert (changed.pool, changed.tier, changed.general) == ("chat", "pool", True)
    assert bench.decisions.release("chat-cpu").model == ""
    with pytest.raises(NotMovable, match="nothing to release"):
        bench.decisions.release("chat-cpu")
    with pytest.raises(NotMovable, match="has: chat-cpu, simulated-0"):
        bench.decisions.move("usb-7", pool="chat")


def test_the_command_shows_moves_and_releases(bench: Bench) -> None:
    """`coral-reef placement` tells every decision with its reason, and says what is wrong with a bad one."""
    bench.controller().look()
    environment = bench.settings.environment()

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["placement", *arguments], env=environment)

    shown = call("show").output
    assert "One of 2 devices of persona alice." in shown
    assert "Reserve: takes what comes" in shown
    assert "persona/bob" in shown
    assert len(json.loads(call("show", "--json").output)) == 6
    assert "release simulated-5" in call("move", "simulated-5", "--pool", "media").output
    assert bench.store.all()["simulated-5"].pool == "media"
    assert call("release", "simulated-5").exit_code == 0
    wrong = call("move", "simulated-5", "--pool", "nowhere")
    assert wrong.exit_code == 1
    assert "There is no pool 'nowhere'" in wrong.output
