"""A device is given only what its kind can do: Edge TPUs no chats, GPUs nothing else; whatever dies."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reef import abilities
from reef.placement.controller import decide_all
from reef.placement.model import Place
from reef.placement.serving import given_out
from reef.placement.store import same
from reef.placement.view import Need, PoolSeen, Seen, View
from reef.topology import Topology, TopologyError, load_topology

POOLS = """
version: 1
pools:
  chat: {queue: chat, devices: [cpu], model: base}
  embed: {queue: embed}
  index: {queue: index}
  media: {queue: media}
allocation:
"""
MIXED = {
    "dedicated": "{personas: [alice], devices_per_persona: 2, services: {embed: 1, media: 2}, reserve: 3}",
    "dynamic": "{hot: 2, warm: 1}",
    "pipeline": "{model: net, segments: 2}",
}
MIXED_DEVICES = "['pci:0-3', 'cuda:0-1', 'cpu:0', 'cpu:1', 'cpu:2', 'remote']"


def topology_of(folder: Path, strategy: str, devices: str, plan: str) -> Topology:
    path = folder / "queues.yaml"
    path.write_text(f"{POOLS}  strategy: {strategy}\n  devices: {devices}\n  {strategy}: {plan}\n", encoding="utf-8")
    return load_topology(path)


class Layout:
    """The devices of a queues.yaml, their places, and a clock."""

    def __init__(self, topology: Topology) -> None:
        self.topology, self.now = topology, 1000.0
        self.kinds = {device.node: device.kind for device in topology.allocated}
        self.devices = [Seen(node=device.node, able=topology.able(device)) for device in topology.allocated]
        self.places: dict[str, Place] = {}
        self.needs: tuple[Need, ...] = ()

    def settle(self) -> None:
        """Look until nothing changes any more."""
        for _ in range(10):
            if not self.look():
                return
        raise AssertionError("it never comes to rest")

    def look(self) -> int:
        """One round; gives how many places changed. Nobody may be where his kind serves nothing."""
        self.now += 6.0
        pools = {name: PoolSeen(name=name, model=pool.model) for name, pool in self.topology.pools.items()}
        view = View(
            devices=tuple(self.devices), pools=pools, places=self.places, needs=self.needs, personas=(), now=self.now
        )
        assert self.topology.allocation is not None
        changed = 0
        for place in decide_all(self.topology.allocation, view):
            assert not place.pool or not abilities.why_not(place.pool, "auto", self.kinds[place.node]), place
            known = self.places.get(place.node)
            if known is None or not same(known, place):
                changed += 1
                version = known.version + 1 if known else 1
                self.places[place.node] = msgspec.structs.replace(place, version=version, decided_at=self.now)
        return changed

    def set(self, gone: set[str], **fields: Any) -> None:
        self.devices = [
            msgspec.structs.replace(one, presence="gone" if one.node in gone else "alive", **fields)
            for one in self.devices
        ]

    def kinds_of(self, pool: str) -> list[str]:
        return sorted(self.kinds[node] for node, place in self.places.items() if place.pool == pool)


@pytest.mark.parametrize("strategy", list(MIXED))
def test_whatever_dies_nobody_gets_what_his_kind_cannot_do(tmp_path: Path, strategy: str) -> None:
    """Every pair of devices dies and comes back, while all pools are asked for more than they can do."""
    layout = Layout(topology_of(tmp_path, strategy, MIXED_DEVICES, MIXED[strategy]))
    layout.settle()
    layout.needs = tuple(Need(pool=pool, queued=50, waited_s=9.0, idle_s=0.0) for pool in layout.topology.pools)
    for gone in itertools.combinations(layout.kinds, 2):
        for dead in (set(gone), set[str]()):
            layout.set(dead)
            for _ in range(3):  # bulk pools may take turns for ever
                layout.look()


def test_each_kind_is_where_it_is_best(tmp_path: Path) -> None:
    """GPUs chat, Edge TPUs see, and the processors keep what nobody else can do."""
    layout = Layout(topology_of(tmp_path, "dedicated", MIXED_DEVICES, MIXED["dedicated"]))
    layout.needs = (Need(pool="media", queued=1, idle_s=0.0),)
    layout.settle()
    assert layout.kinds_of("media") == ["edgetpu", "edgetpu"]
    assert layout.kinds_of("embed") == ["cpu"], "an Edge TPU would need an encoder compiled for it"
    personal = [layout.kinds[node] for node, place in layout.places.items() if place.routes]
    assert personal == ["cuda", "cuda"]
    dead = {node for node, place in layout.places.items() if place.pool == "media"}
    layout.set(dead)
    layout.settle()
    alive = [node for node, place in layout.places.items() if place.pool == "media" and node not in dead]
    assert [layout.kinds[node] for node in alive] == ["edgetpu", "edgetpu"], "two of the reserve"


def test_demand_finds_the_devices_that_can_serve_it(tmp_path: Path) -> None:
    """Cold Edge TPUs serve media from the start; a GPU does no bulk work, and those that chat are never Edge TPUs."""
    layout = Layout(topology_of(tmp_path, "dynamic", MIXED_DEVICES, MIXED["dynamic"]))
    layout.settle()
    assert layout.kinds_of("media") == ["edgetpu"] * 4
    assert set(layout.kinds_of("embed") + layout.kinds_of("index")) == {"cpu"}
    tiers = {layout.kinds[node]: place.tier for node, place in layout.places.items()}
    assert (tiers["edgetpu"], tiers["cuda"]) == ("cold", "hot")


def test_an_unfilled_seat_is_freed_by_one_who_can_do_less(tmp_path: Path) -> None:
    """A processor that sits where an Edge TPU could makes way when a persona would have no device."""
    layout = Layout(topology_of(tmp_path, "dedicated", "['cpu:0', 'pci:0']", "{personas: [alice], services: {}}"))
    layout.topology = topology_of(
        tmp_path,
        "dedicated",
        "['cpu:0', 'pci:0']",
        "{personas: [alice], services: {media: 1}, on_demand: []}",
    )
    layout.places = {
        "cpu-0": Place(node="cpu-0", pool="media", tier="service", version=1, decided_by="controller"),
        "pci-0": Place(node="pci-0", pool="chat", tier="dedicated", routes=("persona/alice",), version=1),
    }
    layout.settle()
    assert (layout.kinds_of("chat"), layout.kinds_of("media")) == (["cpu"], ["edgetpu"])


@pytest.mark.parametrize(
    ("strategy", "devices", "plan", "says"),
    [
        ("dedicated", "['pci:0-7']", "{personas: [alice]}", "1 device for chat; 0 of these 8 can serve that"),
        ("dedicated", "['pci:0-6', 'cpu:9']", "{personas: 2}", "2 devices for chat; 1 of these 8 can serve that"),
        (
            "dedicated",
            "['cpu:9', 'cuda:0', 'pci:0']",
            "{personas: 1, services: {index: 1, embed: 1}}",
            "",
        ),
        (
            "dedicated",
            "['cpu:9', 'cuda:0', 'cuda:1']",
            "{personas: 1, services: {index: 1, embed: 1}}",
            "2 devices for index and embed; 1 of these 3 can serve any of them",
        ),
        ("dynamic", "['usb:0-3']", "{hot: 1}", "1 device for chat; 0 of these 4"),
        ("dynamic", "['usb:0-3']", "{hot: 0, bulk_pools: [index]}", "1 device for index; 0 of these 4"),
        ("dynamic", "['usb:0-3']", "{hot: 0}", ""),
        ("pipeline", "['cuda:0-3']", "{model: m, segments: 2}", "2 devices for media; 0 of these 4"),
    ],
)
def test_what_devices_cannot_do_is_refused_with_its_line(
    tmp_path: Path, strategy: str, devices: str, plan: str, says: str
) -> None:
    """queues.yaml is not used, and the message says where, what is missing, and which kind serves what."""
    if not says:
        assert topology_of(tmp_path, strategy, devices, plan).allocated
        return
    with pytest.raises(TopologyError, match=r"queues\.yaml:11: allocation: .*An Edge TPU serves media") as error:
        topology_of(tmp_path, strategy, devices, plan)
    assert says in str(error.value)


def test_a_pool_that_no_device_can_serve_is_given_none(tmp_path: Path) -> None:
    """Its jobs are refused at the door instead of waiting for ever."""
    assert given_out(topology_of(tmp_path, "dynamic", "['usb:0-3']", "{hot: 0}")) == {"embed", "media"}
    assert given_out(topology_of(tmp_path, "dedicated", "['usb:0']", "{personas: [], services: {media: 1}}")) == {
        "media"
    }
