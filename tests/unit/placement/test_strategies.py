"""What every strategy promises, whatever lives and dies: one place each, no more than asked, few moves."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import PERSONAS, SIZES, World

from reef.allocation import Allocation, Dedicated, Dynamic, Pipeline
from reef.placement.model import Place, persona_route
from reef.placement.view import Need


def check(world: World) -> None:
    """What holds after every round."""
    alive = [world.places[node] for node in world.alive]
    if world.plan.strategy == "dedicated":
        check_dedicated(world.plan.dedicated, world, alive)
    elif world.plan.strategy == "dynamic":
        check_dynamic(world.plan.dynamic, alive)
    elif world.plan.pipeline is not None:
        check_pipeline(world.plan.pipeline, world.places, world.alive)


def check_dedicated(plan: Dedicated, world: World, alive: Sequence[Place]) -> None:
    """No persona or service has more than was asked, and nobody is left out while somebody else has two."""
    routes = Counter(route for place in alive for route in place.routes)
    assert all(times <= plan.devices_per_persona for times in routes.values()), routes
    assert len(routes) <= int(str(plan.personas))
    embed = sum(place.pool == "embed" for place in alive)
    assert embed <= plan.services["embed"]
    seated = {route for place in world.places.values() if place.tier == "dedicated" for route in place.routes}
    if seated - routes.keys():
        assert max(routes.values(), default=0) <= 1, (seated, routes)
        assert not any(place.tier == "reserve" and not place.routes and place.pool == "chat" for place in alive)
    if alive:
        chat = [place for place in alive if place.pool == "chat"]
        assert not chat or any(place.general for place in chat), "personas without devices would never be answered"


def check_dynamic(plan: Dynamic, alive: Sequence[Place]) -> None:
    """Tiers have their sizes as long as there are devices, and the bulk share stays bulk."""
    tiers = Counter(place.tier for place in alive)
    share = min(math.ceil(plan.bulk_share * len(alive)), len(alive) - 1)
    others = len(alive) - max(share, 0)
    assert tiers["hot"] == min(plan.hot, others)
    assert tiers["warm"] == min(plan.warm, others - tiers["hot"])
    assert sum(place.pool in ("embed", "index") for place in alive) >= share
    assert not alive or any(place.pool == "chat" and place.general for place in alive)


def check_pipeline(plan: Pipeline, places: Mapping[str, Place], alive: set[str]) -> None:
    """As many whole pipelines as fit, each device in one stage of one of them."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for node in alive:
        place = places[node]
        if place.tier == "stage":
            assert place.peers[place.stage] == node
            assert place.general == (place.stage == 0)
            groups.setdefault(place.peers, []).append(place.stage)
    assert len(groups) == len(alive) // plan.segments
    assert all(sorted(stages) == list(range(plan.segments)) for stages in groups.values())


MOVED_BY_ONE_DEATH = {"dedicated": 1, "dynamic": 3, "pipeline": 9}
"""Places that change when one device dies: the stand-in; the dead one and one of each tier above; all of a pipeline
(each knows its peers) and the dead one."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strategy", ["dedicated", "dynamic", "pipeline"])
def test_a_first_layout_is_whole_and_stays(strategy: str, size: int) -> None:
    """The first round places everybody, the second changes nothing."""
    world = World(strategy, size)
    assert len(world.round()) == size
    assert world.round() == []
    check(world)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strategy", ["dedicated", "dynamic", "pipeline"])
def test_one_death_moves_few_devices(strategy: str, size: int) -> None:
    """Whichever device dies, the others hardly notice; when it comes back not more of them do."""
    for dead in range(0, size, 5):
        world = World(strategy, size)
        world.settle()
        most = MOVED_BY_ONE_DEATH[strategy]
        world.set([f"d{dead}"], presence="gone")
        assert len(world.round()) <= most
        assert world.round() == []
        check(world)
        world.set([f"d{dead}"], presence="alive")
        assert len(world.round()) <= most
        assert world.round() == []
        check(world)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["dedicated", "dynamic", "pipeline"]), st.sampled_from(SIZES[:2]), st.data())
def test_deaths_and_returns_in_any_order_leave_a_whole_layout(strategy: str, size: int, data: st.DataObject) -> None:
    """After any history of deaths and returns every promise of the strategy holds for those that live."""
    world = World(strategy, size, hosts=data.draw(st.integers(1, 4)))
    world.settle()
    for _ in range(data.draw(st.integers(1, 5))):
        gone = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
        world.set([f"d{n}" for n in range(size)], presence="alive")
        world.set([f"d{n}" for n in gone], presence="gone")
        world.settle()
        check(world)


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_the_reserve_is_shared_by_those_who_lost_everybody(hosts: int) -> None:
    """Two personas are without a device, two of the reserve are left: each gets one, whoever lost its devices first."""
    world = World("dedicated", 8, hosts=hosts)
    world.settle()
    mine = {
        persona: [node for node, place in world.places.items() if persona_route(persona) in place.routes]
        for persona in ("p0", "p1")
    }
    for first, second in (("p0", "p1"), ("p1", "p0")):
        world.set(mine[first], presence="gone")
        world.settle()
        world.set(mine[second], presence="gone")
        world.settle()
        served = Counter(route for node in world.alive for route in world.places[node].routes)
        assert served == {persona_route("p0"): 1, persona_route("p1"): 1}
        world.set([*mine[first], *mine[second]], presence="alive")
        world.settle()


def test_a_start_declares_nobody_dead() -> None:
    """Before the first word of a worker nobody is sent in its place."""
    world = World("dedicated", 8)
    world.set([f"d{n}" for n in range(8)], presence="unknown")
    world.settle()
    assert not any("for d" in place.reason for place in world.places.values())
    before = dict(world.places)
    world.set([f"d{n}" for n in range(8)], presence="alive")
    assert world.round() == []
    assert world.places == before


def test_a_stand_in_stays_while_nobody_knows() -> None:
    """A new controller, which has not heard of the dead device yet, does not send the stand-in home."""
    world = World("dedicated", 8)
    world.settle()
    mine = next(node for node, place in world.places.items() if place.tier == "dedicated")
    world.set([mine], presence="gone")
    world.round()
    world.set([mine], presence="unknown")
    assert world.round() == []
    world.set([mine], presence="alive")
    back = world.round()
    assert [place.tier for place in back] == ["reserve"]
    assert back[0].routes == ()


def test_devices_of_one_persona_are_on_one_host() -> None:
    """Twelve devices on each of two hosts: no persona of eight is split."""
    world = World("dedicated", 96, hosts=8)  # twelve a host, eight a persona
    world.settle()
    hosts = {device.node: device.host for device in world.devices}
    of_persona: dict[str, set[str]] = {}
    for node, place in world.places.items():
        for route in place.routes:
            of_persona.setdefault(route, set()).add(hosts[node])
    assert sum(len(found) == 1 for found in of_persona.values()) >= 8


def test_a_persona_that_is_talked_to_gets_the_devices_of_a_silent_one() -> None:
    """Those who have devices keep them, unless nobody talked to them for an hour and somebody else waits."""
    world = World("dedicated", 8)
    world.settle()
    world.needs = tuple(Need(pool="chat", route=persona_route(p), recent=9) for p in ("p0", "p1", "p5"))
    assert world.round() == [], "both holders are talked to: they keep what they have"
    world.needs = tuple(Need(pool="chat", route=persona_route(p), recent=9) for p in ("p0", "p5"))
    changed = world.round()
    assert {route for place in changed for route in place.routes} == {persona_route("p5")}
    assert world.round() == []
    check(world)


def test_a_service_on_demand_is_loaded_by_its_first_job_and_unloaded_later() -> None:
    """The media device waits without a model; a job loads it; ten silent minutes unload it."""
    world = World("dedicated", 8)
    world.settle()
    assert not any(place.pool == "media" for place in world.places.values())
    world.needs = (Need(pool="media", queued=1, idle_s=0.0),)
    assert [place.pool for place in world.round()] == ["media"]
    world.needs = (Need(pool="media", recent=1, idle_s=30.0),)
    assert world.round() == []
    world.needs = (Need(pool="media", recent=1, idle_s=700.0),)
    assert [place.pool for place in world.round()] == [""]


def test_a_service_whose_devices_are_all_dead_is_served_by_others() -> None:
    """First by the reserve; when that is used up, somebody with several devices lends one."""
    world = World("dedicated", 8)
    world.settle()
    world.needs = (Need(pool="media", queued=1, idle_s=0.0),)
    world.settle()
    for reserve in (True, False):
        gone = [node for node, place in world.places.items() if place.pool == "media"]
        if not reserve:
            gone += [node for node, place in world.places.items() if place.tier == "reserve"]
        world.set(gone, presence="gone")
        world.settle()
        assert any(world.places[node].pool == "media" for node in world.alive), world.places
        check(world)
    world.set([device.node for device in world.devices], presence="alive")
    world.settle()
    check(world)
    assert sum(place.pool == "media" for place in world.places.values()) == 1


def test_a_stand_in_is_called_off_for_a_persona_that_has_nobody() -> None:
    """One of p1's two is dead and stood in for; then p0 loses both and the reserve is dead: p0 gets the stand-in."""
    world = World("dedicated", 8)
    world.settle()
    seats = {route: [n for n, p in world.places.items() if route in p.routes] for route in ("persona/p0", "persona/p1")}
    reserve = [node for node, place in world.places.items() if place.tier == "reserve"]
    world.set(seats["persona/p1"][:1], presence="gone")
    world.settle()
    world.set([*seats["persona/p0"], *(node for node in reserve if not world.places[node].routes)], presence="gone")
    world.settle()
    assert any("persona/p0" in world.places[node].routes for node in world.alive), world.places
    check(world)


def test_without_a_reserve_one_device_of_each_persona_answers_the_others() -> None:
    """The whole reserve dies: personas without devices of their own are still answered, and not by one device alone."""
    world = World("dedicated", 96)
    world.settle()
    world.set([node for node, place in world.places.items() if place.tier == "reserve"], presence="gone")
    opened = world.round()
    models = {persona.id: persona.model for persona in PERSONAS[:10]}
    assert {place.routes for place in opened} == {(persona_route(p),) for p, model in models.items() if not model}
    assert all(place.general and "no reserve is left" in place.reason for place in opened)
    assert world.round() == []
    check(world)


def test_what_an_operator_decided_stays_and_counts() -> None:
    """A device held by an operator is not moved, and the strategy makes do with the others."""
    for strategy in ("dedicated", "dynamic", "pipeline"):
        world = World(strategy, 8)
        world.settle()
        world.places["d3"] = Place(node="d3", pool="media", decided_by="operator", reason="mine", version=7)
        world.settle()
        assert world.places["d3"].pool == "media"
        assert world.places["d3"].version == 7


def test_demand_moves_a_warm_device_that_holds_the_model_first() -> None:
    """A model whose jobs wait gets the warm device that has it in memory, and gives it back after idleness."""
    world = World("dynamic", 8)
    world.settle()
    world.now += 60
    assert any("model0" in p.resident for p in world.places.values() if p.tier == "warm")
    ready = [node for node, place in world.places.items() if place.tier == "warm"][-1]
    world.set([ready], resident=("base", "model0"))
    world.needs = (Need(pool="chat", route="model/model0", queued=1, waited_s=0.1, idle_s=0.0),)
    moved = world.round()
    assert [(place.node, place.model, place.routes) for place in moved] == [(ready, "model0", ("model/model0",))]
    assert "jobs waited" in moved[0].reason or "waited" in moved[0].reason
    world.needs = (Need(pool="chat", route="model/model0", recent=1, idle_s=40.0),)
    assert world.round() == []
    world.now += 60
    world.set([ready], idle_s=60.0)
    back = world.round()
    assert [(place.node, place.model, place.general) for place in back] == [(ready, "", True)]


def test_the_bulk_share_never_leaves_bulk() -> None:
    """However long the chat queue is, the share of cold devices that is bulk's stays there."""
    world = World("dynamic", 48)
    world.settle()
    for _ in range(40):
        world.needs = (Need(pool="chat", queued=10_000, waited_s=300.0, idle_s=0.0),)
        world.round(passes_s=6.0)
        check(world)
    assert sum(place.pool in ("embed", "index") for place in world.places.values()) == 5


def test_bulk_work_that_nobody_would_do_gets_a_device() -> None:
    """A plan without cold devices lends one to bulk work that waits, and takes it back afterwards."""
    world = World("dynamic", 8)
    world.plan = Allocation(strategy="dynamic", devices=["simulated:0-7"], dynamic=Dynamic(hot=4, warm=4))
    world.settle()
    world.now += 60
    assert not any(place.pool == "embed" for place in world.places.values())
    world.needs = (Need(pool="embed", queued=50, waited_s=4.0, idle_s=0.0),)
    moved = world.round()
    assert [place.pool for place in moved] == ["embed"]
    for _ in range(20):
        assert world.round(passes_s=6.0) == [], "one is enough to get on"
    world.needs = (Need(pool="embed", recent=50, idle_s=100.0),)
    world.set([moved[0].node], idle_s=100.0)
    assert [place.pool for place in world.round()] == ["chat"]


class Queue:
    """Jobs of one model that come at random and are done by its devices: a crowd of the same size all the time."""

    def __init__(self, chance: random.Random, route: str, per_s: float, job_s: float) -> None:
        self.chance, self.route, self.per_s, self.job_s = chance, route, per_s, job_s
        self.waiting: list[float] = []
        self.ends: dict[str, list[float]] = {}
        self.done = 0
        self.last_end = 0.0

    def pass_time(self, now: float, step_s: float, nodes: Sequence[str], streams: int) -> None:
        for _ in range(sum(self.chance.random() < self.per_s * step_s / 10 for _ in range(10))):
            self.waiting.append(now)
        for node, ends in list(self.ends.items()):
            left = [end for end in ends if end > now]
            self.done += len(ends) - len(left)
            self.last_end = now if len(left) < len(ends) else self.last_end
            self.ends[node] = left
        for node in sorted(nodes, key=lambda _: self.chance.random()):
            busy = self.ends.setdefault(node, [])
            while self.waiting and len(busy) < streams:
                self.waiting.pop(0)
                busy.append(now + self.chance.uniform(0.5, 1.5) * self.job_s)

    def need(self, now: float) -> Need:
        running = sum(map(len, self.ends.values()))
        return Need(
            pool="chat",
            route=self.route,
            queued=len(self.waiting),
            running=running,
            waited_s=now - self.waiting[0] if self.waiting else 0.0,
            recent=self.done,
            idle_s=0.0 if running or self.waiting else now - self.last_end,
        )


@pytest.mark.parametrize(("size", "seed"), [(8, 1), (8, 2), (48, 3)])
def test_noise_around_a_constant_demand_moves_nothing_for_long(size: int, seed: int) -> None:
    """Poisson arrivals of two models for half an hour: after the first minutes a device moves a few times at most."""
    chance = random.Random(seed)
    world = World("dynamic", size)
    world.settle()
    queues = [Queue(chance, "", size / 6, 1.0), Queue(chance, "model/model0", size / 12, 1.0)]
    idle_since = {device.node: world.now for device in world.devices}
    moves: list[float] = []
    while world.now < 1000 + 1800:
        for queue in queues:
            model = queue.route.removeprefix("model/")
            doing = [n for n, place in world.places.items() if place.pool == "chat" and place.model == model]
            queue.pass_time(world.now, 0.5, doing, streams=2)
        for device in list(world.devices):
            if any(queue.ends.get(device.node) for queue in queues):
                idle_since[device.node] = world.now
        world.devices = [msgspec.structs.replace(d, idle_s=world.now - idle_since[d.node]) for d in world.devices]
        world.needs = tuple(queue.need(world.now) for queue in queues)
        moves += [world.now] * len(world.round())
        check(world)
    assert sum(at > 1000 + 300 for at in moves) <= 6, moves
    assert all(len(queue.waiting) < 2 * size for queue in queues), "the demand is served"
