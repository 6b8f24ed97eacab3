"""Models over the API with a real worker that fetches: load, watch, unload, remove, and everything that goes wrong."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from model_files import BadServer, gguf_bytes
from tiny_networks import dense_tflite
from whole_product import SIMULATED_QUEUES, Reef, running_reef

from reef import keys
from reef.contracts.events import ModelNotice, decode_announced
from reef.placement.store import PlacementStore
from reef.records.database import Database

QUEUES = (
    SIMULATED_QUEUES
    + """
  embed: {queue: embed, devices: ["cpu@elsewhere"]}
  media: {queue: media, devices: ["cpu@elsewhere"]}
  maintenance: {queue: maintenance, devices: [cpu], streams: 2, limits: {lease_s: 5, attempts_max: 5, drain_s: 1}}
"""
)
NODE = "media-cpu.elsewhere"
MODELS = "/api/v1/system/models"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[BadServer]:
    server = BadServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory, server: BadServer) -> Iterator[Reef]:
    """A running product that may fetch from this server, and whose devices for media are on another host."""
    hosts = urlsplit(server.url).netloc
    with running_reef(tmp_path_factory.mktemp("models"), QUEUES, model_url_hosts=hosts) as reef:
        yield reef


@pytest.fixture
def http(reef: Reef, server: BadServer) -> Iterator[httpx.Client]:
    server.body, server.cut_after, server.status = dense_tflite(), [], []
    server.ranges.clear()
    with reef.client() as client:
        yield client


def load(http: httpx.Client, model: str, server: BadServer | None = None, **fields: Any) -> httpx.Response:
    """Ask for a model for the media pool."""
    source = {"source": f"{server.url}?{model}".replace(".gguf", ".tflite")} if server else {}
    return http.post(f"{MODELS}/load", json={"model": model, "pool": "media", **source, **fields})


def view(http: httpx.Client, name: str) -> dict[str, Any]:
    """The model in the list; empty where it is not."""
    found: list[dict[str, Any]] = http.get(MODELS).raise_for_status().json()["models"]
    return next((one for one in found if one["name"] == name), {})


def becomes(http: httpx.Client, name: str, *states: str) -> dict[str, Any]:
    """The model, once it is in one of these states."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := view(http, name)).get("state") not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def place_of(reef: Reef, node: str = NODE) -> Any:
    database = Database(reef.settings.sqlalchemy_url)
    try:
        return PlacementStore(database).get(node)
    finally:
        database.dispose()


def placed(reef: Reef, model: str) -> None:
    """The job that fetched it has said who serves it: the file stands there a moment before."""
    deadline = time.monotonic() + PATIENCE_S
    while (place := place_of(reef)) is None or place.model != model:
        assert time.monotonic() < deadline, place
        time.sleep(0.02)


class Ear(threading.Thread):
    """Hears what is told about models."""

    def __init__(self, reef: Reef) -> None:
        super().__init__(daemon=True)
        self.heard: list[ModelNotice] = []
        self._pubsub = redis.Redis.from_url(reef.settings.redis_url).pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(keys.SYSTEM_CHANNEL)
        self._pubsub.get_message(timeout=5)
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            message = self._pubsub.get_message(timeout=0.1)
            if message is not None:
                event = decode_announced(message["data"])
                if isinstance(event, ModelNotice) and not event.node:
                    self.heard.append(event)

    def of(self, model: str) -> list[ModelNotice]:
        """Everything about one model, once its end was told."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = [event for event in list(self.heard) if event.name == model]
            if any("on this machine" in event.note or event.state == "FAILED" for event in found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def close(self) -> None:
        self._over.set()
        self.join()
        self._pubsub.close()


def test_a_model_is_fetched_checked_placed_and_let_go(reef: Reef, http: httpx.Client, server: BadServer) -> None:
    """From an address, over a cut connection, to a place in the database: then unloaded, and removed from the disk."""
    server.cut_after = [4000]
    sha256, ear = hashlib.sha256(server.body).hexdigest(), Ear(reef)
    answer = load(http, "sees-fish", server, sha256=sha256)
    assert answer.status_code == 202, answer.text
    assert answer.json()["nodes"] == [NODE]
    assert answer.json()["job_id"]
    found = becomes(http, "sees-fish", "CACHED")
    events = ear.of("sees-fish")
    ear.close()
    assert {event.state for event in events} == {"LOADING"}
    assert events[-1].progress == 1.0
    assert (found["format"], found["quantisation"], found["sha256"]) == ("tflite", "float32", sha256)
    assert server.ranges == [None, "bytes=4000-"]
    assert (place_of(reef).pool, place_of(reef).model) == ("media", "sees-fish")
    assert view(http, "sees-fish")["stays"] == "is to be loaded"
    again = load(http, "sees-fish", server, sha256=sha256)
    assert (again.status_code, again.json()["job_id"]) == (202, None), "it is here"
    refused = http.delete(f"{MODELS}/sees-fish")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    unload = {"model": "sees-fish", "pool": "media"}
    assert http.post(f"{MODELS}/unload", json=unload).json()["nodes"] == [NODE]
    again = http.post(f"{MODELS}/unload", json=unload)
    assert (again.status_code, again.json()["code"]) == (409, "not_loaded")
    assert place_of(reef) is None, "no decision is left behind"
    assert http.post(f"{MODELS}/sees-fish/pin", json={"pinned": True}).status_code == 204
    assert view(http, "sees-fish")["pinned"]
    assert http.delete(f"{MODELS}/sees-fish").status_code == 409
    assert http.post(f"{MODELS}/sees-fish/pin", json={"pinned": False}).status_code == 204
    assert http.delete(f"{MODELS}/sees-fish").status_code == 204
    assert http.post(f"{MODELS}/sees-fish/pin", json={"pinned": True}).status_code == 404
    assert view(http, "sees-fish") == {}
    assert http.delete(f"{MODELS}/sees-fish").status_code == 404


@pytest.mark.parametrize(
    ("body", "sha256", "says"),
    [
        (dense_tflite(), "a" * 64, "SHA-256"),
        (b"<!DOCTYPE html> please log in", "", "not a model in TFLite format"),
        (dense_tflite()[:3000], "", "damaged or cut short"),
        (gguf_bytes(), "", "not a model in TFLite format"),
    ],
)
def test_wrong_content_fails_and_changes_nothing(
    reef: Reef, http: httpx.Client, server: BadServer, body: bytes, sha256: str, says: str
) -> None:
    """Another file, a web page, half a file: the reason stands in the list, no file and no place is left."""
    server.body, before = body, place_of(reef)
    assert load(http, "bad-one", server, sha256=sha256).status_code == 202
    found = becomes(http, "bad-one", "FAILED")
    assert says in found["error"]
    assert ".part" not in found["error"], "of a file that is gone"
    assert "unpack" not in found["error"]
    assert not list((reef.data_dir / "models").glob("*bad-one.*tflite*"))
    assert place_of(reef) == before
    assert http.delete(f"{MODELS}/bad-one").status_code == 204, "the memory of a failure can be wiped out"
    assert view(http, "bad-one") == {}


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        (
            {"model": "nobody-knows-me"},
            404,
            "No model is called 'nobody-knows-me'. GET /api/v1/system/models lists all",
        ),
        ({"model": "smolm2-135m-instruct"}, 404, "Did you mean smollm2-135m-instruct"),
        ({"model": "x", "pool": "kitchen"}, 404, "no pool 'kitchen'"),
        ({"model": "x", "nodes": ["media-gpu"]}, 404, "media-gpu"),
        ({"model": "/etc/passwd"}, 422, "coral-reef models import FILE"),
        ({"model": "x.gguf"}, 422, "a model is a name"),
        ({"model": "x+y@99"}, 422, "expected MODEL+ADAPTER"),
        ({"model": "x", "source": "file:///etc/passwd"}, 422, "Only http"),
        ({"model": "x", "source": "http://169.254.169.254/x"}, 422, "REEF_MODEL_URL_HOSTS"),
        ({"model": "x", "sha256": "abc"}, 400, "sha256"),
        ({"model": "x", "pool": "embed"}, 404, "No model is called"),
        ({"model": "smollm2-135m-instruct", "pool": "maintenance"}, 409, "Pool maintenance loads no models"),
        ({"model": "smollm2-135m-instruct"}, 409, "in tflite format; this one is gguf"),
    ],
)
def test_what_cannot_be_asked_for(http: httpx.Client, fields: dict[str, Any], status: int, says: str) -> None:
    """Unknown names, files of the server, foreign addresses: refused at once, with what to do."""
    answer = http.post(f"{MODELS}/load", json={"pool": "media", **fields})
    assert (answer.status_code, says in answer.text) == (status, True), answer.text


def test_a_format_that_the_pool_cannot_read(reef: Reef, http: httpx.Client) -> None:
    """A language model for the media pool, any model for the embed pool: refused in words, nothing is placed."""
    path = reef.data_dir / "models" / "words.gguf"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gguf_bytes())
    before = place_of(reef)
    answer = load(http, "words")
    assert (answer.status_code, "in tflite format; this one is gguf" in answer.text) == (409, True)
    answer = http.post(f"{MODELS}/load", json={"model": "words", "pool": "embed"})
    assert (answer.status_code, "vectors of all documents" in answer.text) == (409, True)
    assert place_of(reef) == before
    assert view(http, "words")["state"] == "CACHED"
    assert http.delete(f"{MODELS}/words").status_code == 204


def test_models_without_a_file(reef: Reef, http: httpx.Client) -> None:
    """A simulated device takes any name of its kind at once; the pool's own model cannot be unloaded."""
    assert view(http, "simulated")["where"] == ["chat-simulated"]
    answer = http.post(f"{MODELS}/load", json={"model": "simulated:token_ms=1"})
    assert (answer.status_code, answer.json()["job_id"]) == (202, None)
    assert place_of(reef, "chat-simulated").model == "simulated:token_ms=1"
    unloaded = http.post(f"{MODELS}/unload", json={"model": "simulated:token_ms=1"})
    assert unloaded.json()["nodes"] == ["chat-simulated"]
    unknown = http.post(f"{MODELS}/unload", json={"model": "nobody-knows-me"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")
    assert becomes(http, "simulated", "READY")["pools"] == ["chat"]
    assert view(http, "smollm2-135m-instruct")["pools"] == ["chat"]
    refused = http.post(f"{MODELS}/unload", json={"model": "simulated"})
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")


def test_the_worker_dies_while_it_fetches(reef: Reef, http: httpx.Client, server: BadServer) -> None:
    """Killed in the middle: another worker goes on from the last byte. Meanwhile a second wish is the same job,
    another wish is refused in words, and the model cannot be removed."""
    held, go_on, original = threading.Event(), threading.Event(), server.answer

    def slowly(handler: Any) -> None:
        if held.is_set():
            original(handler)
            return
        server.ranges.append(handler.headers.get("Range"))
        handler.send_response(200)
        handler.send_header("ETag", server.etag or "")
        handler.send_header("Content-Length", str(len(server.body)))
        handler.end_headers()
        handler.wfile.write(server.body[:6000])
        held.set()
        go_on.wait(PATIENCE_S)
        handler.close_connection = True

    server.answer = slowly  # type: ignore[method-assign]
    try:
        job_id = load(http, "long-one", server).json()["job_id"]
        assert held.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while (found := view(http, "long-one"))["progress"] == 0.0:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        assert found["state"] == "LOADING"
        assert found["progress"] == pytest.approx(6000 / len(server.body), abs=0.01)
        assert load(http, "long-one", server).json()["job_id"] == job_id
        other = load(http, "long-one", server, sha256="b" * 64)
        assert (other.status_code, other.json()["code"], other.json()["run_id"]) == (409, "being_fetched", job_id)
        assert http.delete(f"{MODELS}/long-one").status_code == 409
        os.kill(reef.processes.pids()["maintenance-cpu"], signal.SIGKILL)
        go_on.set()
        assert becomes(http, "long-one", "CACHED", "FAILED")["state"] == "CACHED"
    finally:
        go_on.set()
        server.answer = original  # type: ignore[method-assign]
    assert server.ranges == [None, "bytes=6000-"]
    placed(reef, "long-one")


def test_a_fetch_can_be_stopped(reef: Reef, http: httpx.Client, server: BadServer) -> None:
    """Stopping the job ends the download at the next bytes; what has arrived is kept, and the next wish goes on."""
    original, slow = server.answer, threading.Event()

    def drop_by_drop(handler: Any) -> None:
        if slow.is_set():
            original(handler)
            return
        slow.set()
        server.ranges.append(handler.headers.get("Range"))
        handler.send_response(200)
        handler.send_header("ETag", server.etag or "")
        handler.send_header("Content-Length", str(len(server.body)))
        handler.end_headers()
        for place in range(0, len(server.body), 100):
            try:
                handler.wfile.write(server.body[place : place + 100])
            except OSError:
                return
            if place > 4000:
                time.sleep(0.1)  # a slow line, as far as the other side can tell

    server.answer = drop_by_drop  # type: ignore[method-assign]
    try:
        job_id = load(http, "slow-one", server).json()["job_id"]
        deadline = time.monotonic() + PATIENCE_S
        while view(http, "slow-one")["progress"] == 0.0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert http.post(f"/api/v1/runs/{job_id}/stop").status_code in (200, 202)
        found = becomes(http, "slow-one", "PARTIAL")
        assert http.get(f"/api/v1/runs/{job_id}").json()["state"] in ("stopped", "cancelled")
        part = reef.data_dir / "models" / ".slow-one.url.part.tflite"
        assert (found["size_bytes"], found["format"]) == (part.stat().st_size, "tflite")
        assert found["note"].endswith("MB have come")
        assert found["source"].startswith("http://127.0.0.1:")
        cache = http.get(MODELS).json()["cache"]
        assert cache["used_bytes"] >= found["size_bytes"]
        again = load(http, "slow-one")
        assert (again.status_code, "only the beginning is here" in again.text) == (404, True), again.text
        assert load(http, "slow-one", server).status_code == 202
        becomes(http, "slow-one", "CACHED")
        placed(reef, "slow-one")
    finally:
        server.answer = original  # type: ignore[method-assign]
    assert server.ranges[0] is None
    assert str(server.ranges[1]).startswith("bytes=")


def test_what_a_stopped_fetch_left_can_be_removed(reef: Reef, http: httpx.Client) -> None:
    """The beginning of a model that nobody fetches stands in the list, is counted, and goes when it is told to."""
    used = http.get(MODELS).json()["cache"]["used_bytes"]
    part = reef.data_dir / "models" / ".left-one.url.part.gguf"
    part.write_bytes(bytes(1000))
    assert (view(http, "left-one")["state"], view(http, "left-one")["size_bytes"]) == ("PARTIAL", 1000)
    assert http.get(MODELS).json()["cache"]["used_bytes"] == used + 1000
    assert http.delete(f"{MODELS}/left-one").status_code == 204
    assert not part.exists()
    assert view(http, "left-one") == {}
    assert http.delete(f"{MODELS}/left-one").status_code == 404
