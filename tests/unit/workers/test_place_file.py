"""What a worker remembers of its place, and what it makes of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from reef.placement.model import Place, stage_of
from reef.settings import Settings
from reef.topology import Topology, load_topology
from tasks.queue_order import OwnFirst
from workers.place_file import DEATHS_MAX, PlaceFile
from workers.seat import take_seat
from workers.wanted import wanted

QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: [simulated], engine: simulated, model: own, streams: 8}
  embed: {queue: vectors, devices: ["simulated:7@elsewhere"], engine: simulated, streams: 3}
allocation: {strategy: dynamic, devices: ["simulated:1-2"]}
"""


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    """Two pools, two devices that are given out."""
    path = tmp_path / "queues.yaml"
    path.write_text(QUEUES)
    return load_topology(path)


def test_a_model_that_kills_its_worker_is_left_alone(tmp_path: Path) -> None:
    """A load that was begun and never ended counts; one that ended in any way does not, nor one before a decision."""
    place = Place(node="n", pool="chat", model="bad", version=3)
    file = PlaceFile(tmp_path, "n")
    file.see(place)
    for death in range(DEATHS_MAX):
        assert not PlaceFile(tmp_path, "n").known.is_deadly("bad"), death
        PlaceFile(tmp_path, "n").begin("bad")
    after = PlaceFile(tmp_path, "n")
    assert after.known.is_deadly("bad")
    assert not after.known.is_deadly("other")
    assert after.known.place == place
    after.see(place)
    assert after.known.is_deadly("bad")
    after.end()
    assert not PlaceFile(tmp_path, "n").known.is_deadly("bad")
    after.begin("bad")
    after.begin("bad")
    after.see(Place(node="n", pool="chat", model="bad", version=4))
    assert not PlaceFile(tmp_path, "n").known.is_deadly("bad")


def test_a_file_that_cannot_be_read_or_written_costs_only_the_memory(tmp_path: Path) -> None:
    """The database is asked soon anyway."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "place-n.json").write_text("{broken")
    assert PlaceFile(tmp_path, "n").known.place is None
    (tmp_path / "file").write_text("")
    file = PlaceFile(tmp_path / "file", "n")
    file.begin("m")
    assert file.known.loading == "m"


def test_what_a_place_asks_for(topology: Topology) -> None:
    """A device of a pool stays in it; one that is given out goes where its place says, or waits."""
    chat = topology.pools["chat"]
    plain = wanted(None, chat, topology)
    assert (plain.pool, plain.model, plain.queues("n", ())) == (chat, "own", ("chat.n", "chat"))
    moved = wanted(Place(node="n", pool="embed", model="m", version=2), chat, topology)
    assert (moved.pool, moved.model, moved.version) == (chat, "m", 2)
    assert "ignored" in moved.note
    assert wanted(None, None, topology).queues("n", ()) == ("idle.n",)
    lost = wanted(Place(node="n", pool="gone"), None, topology)
    assert lost.pool is None
    assert "gone" in lost.note
    routes = ("model/m", "model/absent", "persona/alice")
    given = wanted(Place(node="n", pool="embed", routes=routes, general=False, tier="dedicated"), None, topology)
    assert given.queues("n", {"m"}) == ("vectors.n", "vectors/model/m", "vectors/persona/alice")
    assert given.open_routes({"m"}) == ("model/m", "persona/alice")


def test_a_segment_of_a_pipeline_is_a_model_of_its_own(topology: Topology) -> None:
    """The first takes the pool's jobs, a later one none; among other peers it is another model, loaded anew."""
    place = Place(node="n", pool="embed", model="m", tier="stage", stage=1, peers=("a", "n", "c"))
    later = wanted(place, None, topology)
    assert later.queues("n", ()) == ("vectors.n",)
    assert stage_of(later.model) == msgspec.structs.replace(place, node="", pool="")
    first = wanted(msgspec.structs.replace(place, stage=0), None, topology)
    assert first.queues("n", ()) == ("vectors.n", "vectors")
    repaired = wanted(msgspec.structs.replace(place, peers=("a", "n", "d")), None, topology)
    assert len({later.model, first.model, repaired.model}) == 3
    assert stage_of("a-model") is None


def test_whose_seat_it_is(topology: Topology, tmp_path: Path) -> None:
    """With a pool its own device, without one a device of the allocation; anything else is told with what there is."""
    settings = Settings(data_dir=tmp_path)
    own = take_seat(settings, topology, "chat", "simulated")
    assert (own.node, own.streams_max, list(own.pools)) == ("chat-simulated", 8, ["chat"])
    given = take_seat(settings, topology, "", "simulated:2")
    assert (given.node, given.own, given.streams_max) == ("simulated-2", None, 8)
    with pytest.raises(KeyError, match="simulated:1, simulated:2"):
        take_seat(settings, topology, "", "simulated:9")


def test_own_queues_come_first() -> None:
    """Whatever the order they are told in: what only this device can do well, then routes, then the pool's queue."""
    order = OwnFirst(["chat", "chat/persona/a.b", "chat.chat-cpu"])
    assert order.consume(3) == ["chat.chat-cpu", "chat/persona/a.b", "chat"]
    order.rotate("chat.chat-cpu")
    assert order.consume(2) == ["chat.chat-cpu", "chat/persona/a.b"]
