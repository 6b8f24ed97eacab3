"""The table of models, the places that loading writes, and what is kept in memory on a guess: on both databases."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import redis
import sqlalchemy as sa
from model_files import gguf_bytes
from services import RedisServer
from tiny_networks import dense_tflite

from reef import keys
from reef.contracts.events import ModelNotice, decode_announced
from reef.contracts.nodes import NodeReport
from reef.models import ModelError, ModelMissing
from reef.models.errors import ModelInUse, NotLoaded
from reef.models.keeping import Keeping
from reef.models.preload import LOOK_EVERY_S, Preloader
from reef.models.serving import UnknownNode
from reef.models.states import overview
from reef.placement.model import Place
from reef.placement.operator import NothingDecided
from reef.records.database import Database
from reef.records.tables import messages, models, personas, placements, sessions
from reef.settings import Settings
from reef.topology import load_topology

QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: [cpu, "cpu@elsewhere"], model: own}
  embed: {queue: embed, devices: [cpu]}
  media: {queue: media, devices: []}
allocation: {strategy: dynamic, devices: ["cpu:0", "cpu:1"], dynamic: {hot: 1}}
"""


@pytest.fixture
def keeping(any_database: Database, shared_redis: RedisServer, tmp_path: Path) -> Keeping:
    """The model manager over an empty folder."""
    (tmp_path / "queues.yaml").write_text(QUEUES)
    client = redis.Redis.from_url(shared_redis.url)
    client.delete(keys.NODES)
    with any_database.write() as connection:
        connection.execute(placements.delete())
        connection.execute(models.delete())
    settings = Settings(data_dir=tmp_path, redis_url=shared_redis.url, model_cache_bytes=0)
    keeping = Keeping(settings, load_topology(tmp_path / "queues.yaml"), any_database, client)
    keeping.store.folder.mkdir()
    return keeping


def put(keeping: Keeping, name: str, **metadata: object) -> Path:
    """A file that a user drops into the folder."""
    path = keeping.store.folder / f"{name}.gguf"
    path.write_bytes(gguf_bytes(dict(metadata)))
    return path


def test_the_table_follows_the_folder(keeping: Keeping) -> None:
    """A file that appears gets a row with what it says, one that changes another, one that goes loses it."""
    path = put(keeping, "mine", **{"general.file_type": 15, "general.license": "mit"})
    record = keeping.registry.refresh()["mine"]
    assert (record.format, record.quantisation, record.licence) == ("gguf", "Q4_K_M", "mit")
    assert record.sha256 == "", "nobody computed it yet"
    digest = keeping.store.resolve("mine").sha256
    assert keeping.registry.pin("mine", True).pinned
    assert keeping.registry.refresh()["mine"].sha256 == digest
    time.sleep(0.01)  # the file system's clock must have moved
    path.write_bytes(gguf_bytes({"general.file_type": 7}))
    record = keeping.registry.refresh()["mine"]
    assert (record.quantisation, record.pinned, record.sha256) == ("Q8_0", True, "")
    path.unlink()
    assert keeping.registry.refresh() == {}
    with pytest.raises(ModelMissing):
        keeping.registry.pin("mine", True)


def test_a_damaged_file_is_listed_with_its_reason(keeping: Keeping) -> None:
    """It does not disappear and does not break the list of the others."""
    put(keeping, "good")
    bad = put(keeping, "bad")
    bad.write_bytes(bad.read_bytes()[:50])
    found = {view.name: view for view in overview(keeping, {}, 0).models}
    assert found["good"].state == "CACHED"
    assert found["bad"].state == "FAILED"
    assert "damaged or cut short" in found["bad"].error
    assert found["smollm2-135m-instruct"].state == "AVAILABLE"


def test_loading_writes_places_and_says_so(keeping: Keeping) -> None:
    """Every node of the pool, or those that are named, once: a second wish for the same changes nothing."""
    pubsub = keeping._client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(keys.PLACEMENT_CHANNEL)
    pubsub.get_message(timeout=5)
    put(keeping, "other")
    nodes = list(keeping.serving.nodes("chat"))
    assert nodes == ["chat-cpu", "chat-cpu.elsewhere"]
    first = keeping.decisions.load("other", "chat", nodes)
    assert [(place.node, place.model, place.version) for place in first] == [
        ("chat-cpu", "other", 1),
        ("chat-cpu.elsewhere", "other", 1),
    ]
    assert keeping.decisions.load("other", "chat", nodes)[0].version == 1
    assert {pubsub.get_message(timeout=5)["data"].decode() for _ in range(2)} == set(nodes)
    pubsub.close()
    assert keeping.decisions.unload("other", "chat", ["chat-cpu"])[0].model == ""
    assert keeping.serving.places.get("chat-cpu") is None, "the device does again what queues.yaml says"
    with pytest.raises(NotLoaded, match="other is loaded on no device of pool chat"):
        keeping.decisions.unload("other", "chat", ["chat-cpu"])
    assert list(keeping.serving.nodes("chat", ["cpu-0"])) == ["cpu-0"], "an operator may name a device of a strategy"
    keeping.serving.places.put([Place(node="cpu-1", pool="chat", tier="hot")])
    assert "cpu-1" in keeping.serving.nodes("chat")
    assert keeping.decisions.load("other", "chat", ["cpu-1"])[0].tier == "hot"


def test_unloading_gives_the_place_back(keeping: Keeping) -> None:
    """What an operator had loaded goes back to the strategy; what the strategy loaded, or nobody knows, is told."""
    places, decisions = keeping.serving.places, keeping.decisions
    put(keeping, "other")
    places.put([Place(node="cpu-0", pool="chat", tier="hot", decided_by="controller")])
    loaded = decisions.load("other", "chat", ["cpu-0"])[0]
    assert (loaded.decided_by, loaded.general, loaded.routes) == ("operator", True, ("model/other",))
    assert keeping.unload("other", "chat") == ["cpu-0"]
    back = places.get("cpu-0")
    assert back is not None
    assert (back.decided_by, back.model, back.general, back.routes) == ("released", "", True, ())
    assert (back.pool, back.tier) == ("chat", "hot"), "its strategy goes on from here"
    own = msgspec.structs.replace(back, model="busy", routes=("model/busy",), decided_by="controller")
    places.put([own])
    with pytest.raises(ModelInUse, match="The strategy has busy loaded on cpu-0"):
        keeping.unload("busy", "chat")
    with pytest.raises(ModelMissing, match="nobody-knows-me"):
        keeping.unload("nobody-knows-me", "chat")
    assert places.get("cpu-0") is not None


def test_a_decision_after_a_release_is_newer_than_all_before(keeping: Keeping) -> None:
    """The number never goes back: a worker that refused a model tries it again when it is decided anew."""
    put(keeping, "other")
    first = keeping.decisions.load("other", "chat", ["chat-cpu"])[0]
    keeping.decisions.release("chat-cpu")
    assert keeping.serving.places.get("chat-cpu") is None
    with pytest.raises(NothingDecided):
        keeping.decisions.release("chat-cpu")
    assert keeping.decisions.load("other", "chat", ["chat-cpu"])[0].version > first.version + 1


def test_a_stage_that_is_moved_is_a_stage_no_more(keeping: Keeping) -> None:
    """Its segment and its peers go with its role: a worker would look for them."""
    put(keeping, "other")
    (keeping.store.folder / "net.tflite").write_bytes(dense_tflite())
    stage = Place(node="cpu-0", pool="media", model="net", tier="stage", stage=1, peers=("x", "cpu-0"))
    keeping.serving.places.put([msgspec.structs.replace(stage, decided_by="controller")])
    loaded = keeping.decisions.load("other", "chat", ["cpu-0"])[0]
    assert (loaded.tier, loaded.stage, loaded.peers) == ("service", 0, ())
    keeping.decisions.release("cpu-0")
    moved = keeping.decisions.move("cpu-0", pool="media", model="net", alone=True)
    assert (moved.general, moved.routes) == (True, ()), "only chats ask for a model by a route"


def test_what_cannot_be_loaded_is_told(keeping: Keeping) -> None:
    """Unknown pools and nodes, pools without devices, and the pool's own model."""
    with pytest.raises(KeyError, match="no pool 'x'"):
        keeping.serving.nodes("x")
    with pytest.raises(UnknownNode, match="chat-gpu"):
        keeping.serving.nodes("chat", ["chat-gpu"])
    with pytest.raises(ModelError, match="media has no device"):
        keeping.serving.nodes("media")
    with pytest.raises(ModelInUse, match=r"that queues\.yaml gives pool chat"):
        keeping.decisions.unload("own", "chat", ["chat-cpu"])


def test_an_embedding_model_is_called_what_it_is(keeping: Keeping) -> None:
    """The list shows it, so nobody may say that there is no such model."""
    (folder := keeping.store.folder / "embeddings" / "all-words" / "checkpoint").mkdir(parents=True)
    (folder / "NOTICE").write_text("Model: all-words\nLicense: Apache-2.0\n\nThe full text is in LICENSE.\n")
    record = keeping.registry.refresh()["all-words"]
    assert (record.format, record.licence) == ("encoder", "Apache-2.0")
    with pytest.raises(ModelMissing, match=r"all-words is an embedding model.* a path to a \.gguf file works too"):
        keeping.store.resolve("all-words")


def test_a_model_in_use_stays(keeping: Keeping) -> None:
    """Named, pinned and placed models are not removed; another one is, and everybody who listens hears it."""
    for name in ("own", "pinned", "placed", "free"):
        put(keeping, name)
    keeping.registry.refresh()
    keeping.registry.pin("pinned", True)
    keeping.decisions.load("placed", "chat", ["chat-cpu"])
    for name, why in (("own", "named in queues"), ("pinned", "is pinned"), ("placed", "is to be loaded")):
        with pytest.raises(ModelInUse, match=why):
            keeping.remove(name)
    pubsub = keeping._client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(keys.SYSTEM_CHANNEL)
    pubsub.get_message(timeout=5)
    assert keeping.remove("free") > 0
    event = decode_announced(pubsub.get_message(timeout=5)["data"])
    assert isinstance(event, ModelNotice)
    assert (event.name, event.state) == ("free", "REMOVED")
    pubsub.close()
    assert sorted(keeping.store.files()) == ["own", "pinned", "placed"]
    with pytest.raises(ModelMissing):
        keeping.remove("free")


def test_what_workers_hold_without_a_place_stays_and_can_be_unloaded(keeping: Keeping) -> None:
    """A file is loaded where its worker says so; the worker is told to forget it, and a place is not touched."""
    put(keeping, "seen")
    report = NodeReport(
        node="chat-cpu", pool="chat", device="cpu", kind="cpu", host="h", pid=1, at=time.time() + 60, state="ready",
        engine="llama", model="own", resident=("own", "seen"),
    )  # fmt: skip
    keeping._client.hset(keys.NODES, report.node, msgspec.json.encode(report))
    found = {view.name: view for view in overview(keeping, {}, 0).models}["seen"]
    assert (found.state, found.where, found.stays) == ("READY", ["chat-cpu"], "is in a device's memory")
    with pytest.raises(ModelInUse, match="in a device's memory"):
        keeping.remove("seen")
    nodes = ["chat-cpu", "chat-cpu.elsewhere"]
    assert keeping.unload("seen", "chat", nodes) == [], "nobody hears it"
    pubsub = keeping._client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(keys.UNLOAD_CHANNEL)
    pubsub.get_message(timeout=5)
    assert keeping.unload("seen", "chat", nodes) == ["chat-cpu"]
    assert pubsub.get_message(timeout=5)["data"] == b"chat-cpu seen"
    pubsub.close()
    assert keeping.serving.places.get("chat-cpu") is None
    with pytest.raises(ModelInUse, match=r"that queues\.yaml gives"):
        keeping.unload("own_edgetpu", "chat", nodes)


# --- what is kept in memory on a guess


def talk(database: Database, now: float, *said: str) -> None:
    """Replies of personas that have these models, a minute apart, the last one just now."""
    with database.write() as connection:
        connection.execute(messages.delete())
        connection.execute(sessions.delete())
        connection.execute(personas.delete().where(personas.c.id.like("p-%")))
        for model in sorted(set(said)):
            row = {"id": f"p-{model}", "name": model, "model": model, "created_at": now, "updated_at": now}
            connection.execute(personas.insert().values(**row))
        session = {"id": "s", "persona_id": "p", "created_at": now, "updated_at": now}
        connection.execute(sessions.insert().values(**session))
        for place, model in enumerate(said):
            at = now - 60.0 * (len(said) - 1 - place)
            row = {"id": f"m{place}", "session_id": "s", "role": "assistant", "persona_id": f"p-{model}"}
            connection.execute(messages.insert().values(**row, content="x", created_at=at))


def resident(keeping: Keeping) -> tuple[str, ...]:
    place = keeping.serving.places.get("chat-cpu")
    return place.resident if place else ()


def test_likely_models_are_kept_in_memory(keeping: Keeping) -> None:
    """What personas' models are asked for is kept beside the one that serves, with the reason; nothing on a guess
    that is not on disk, on another host, too large, or against what an operator decided."""
    now = time.time()
    for name in ("own", "poet", "coder"):
        put(keeping, name)
    size = keeping.store.files()["poet"].stat().st_size
    talk(keeping.registry.database, now, *["poet"] * 6, "absent", *["coder"] * 3, "own")
    preloader = Preloader(keeping, size * 100, clock=lambda: now)
    assert preloader.look() == 1
    assert resident(keeping) == ("coder", "poet")
    place = keeping.serving.places.get("chat-cpu")
    assert place is not None
    assert place.model == ""
    assert place.reason.startswith("likely to be asked for next: coder (")
    assert keeping.serving.places.get("chat-cpu.elsewhere") is None
    assert preloader.look() == 0, "not again at once"
    now += LOOK_EVERY_S
    assert preloader.look() == 0, "nothing has changed"
    small = Preloader(keeping, size * 2, clock=lambda: now)
    assert small.look() == 1
    assert resident(keeping) == ("poet",)
    keeping.decisions.load("coder", "chat", ["chat-cpu"])
    assert Preloader(keeping, size * 100, clock=lambda: now).look() == 0, "an operator was here"
    now += 2 * 3600
    Preloader(keeping, size * 100, clock=lambda: now).look()
    assert "coder" not in resident(keeping), "it serves"


def test_small_machines_and_the_switch(keeping: Keeping) -> None:
    """Off means off; by itself it takes a quarter of the free memory, and nothing of a machine below 8 GB."""
    now = time.time()
    put(keeping, "poet")
    talk(keeping.registry.database, now, *["poet"] * 6)
    size = int(keeping.store.files()["poet"].stat().st_size * 1.5)
    assert Preloader(keeping, 0, clock=lambda: now).look() == 0
    for whole, free, kept in (
        (7 * 10**9, 10**9, ()),
        (16 * 10**9, size * 4 - 8, ()),
        (16 * 10**9, size * 4, ("poet",)),
    ):
        with keeping.registry.database.write() as connection:
            connection.execute(sa.delete(placements))
        Preloader(keeping, -1, clock=lambda: now, memory=lambda whole=whole, free=free: (whole, free)).look()
        assert resident(keeping) == kept, (whole, free)
