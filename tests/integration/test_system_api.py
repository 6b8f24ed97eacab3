"""The operator's endpoints: jobs, places, the last hour, and the live view over the WebSocket."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from reef import keys
from reef.contracts.events import ModelNotice, encode
from reef.contracts.jobs import FetchModelJob
from reef.contracts.system import PoolSample, Sample
from reef.ledger import NewJob
from reef.observing import history
from reef.placement.model import Place
from reef.placement.store import PlacementStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Web
    from played_device import Stage

V1 = "/api/v1"
NODE = "chat-simulated"
ALLOCATED = """
version: 1
pools:
  chat: {queue: chat, devices: [simulated], engine: simulated, model: test-model, streams: 4}
  embed: {queue: embed, engine: simulated, streams: 4}
allocation:
  strategy: dynamic
  devices: [simulated:1-3]
"""


def say(web: Web, text: str = "hello") -> str:
    """A turn that waits; its run's id."""
    with web.client() as client:
        body = {"persona_id": "alice", "message": text, "wait": False}
        run_id: str = client.post(f"{V1}/chat", json=body).raise_for_status().json()["run_id"]
    return run_id


def bury(stage: Stage, run_id: str) -> None:
    """Use up a job's attempts."""
    for _ in range(3):
        stage.ledger.retry_later(stage.take(run_id).claim, "it broke", 0.0)


def listed(web: Web, state: str, **query: Any) -> list[dict[str, Any]]:
    with web.client() as client:
        answer = client.get(f"{V1}/system/jobs", params={"state": state, **query}).raise_for_status().json()
    jobs: list[dict[str, Any]] = answer["jobs"]
    return jobs


def test_jobs_are_listed_with_who_and_where(web: Web, stage: Stage) -> None:
    """A running job says persona, chat, worker and attempt; a waiting one stands in its own list; limits hold."""
    running, waiting = say(web, "The octopus garden"), say(web)
    stage.take(running)
    job = listed(web, "running")[0]
    assert (job["id"], job["persona_name"], job["session_title"]) == (running, "Alice", "The octopus garden")
    assert (job["node"], job["attempts"], job["pool"]) == (NODE, 1, "chat")
    assert abs(job["started_at"] - time.time()) < 30
    assert [one["id"] for one in listed(web, "queued")] == [waiting]
    say(web)
    assert len(listed(web, "queued", limit=1)) == 1
    assert listed(web, "queued", pool="embed") == []
    with web.client() as client:
        assert client.get(f"{V1}/system/jobs", params={"state": "done"}).status_code == 400
        unknown = client.get(f"{V1}/system/jobs", params={"pool": "nowhere"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_pool")


def test_a_job_says_which_model_it_fetches(web: Web, stage: Stage) -> None:
    """Both in the list and where one job is answered."""
    new = NewJob(job=FetchModelJob(model="some-model"), deadline_s=60.0, attempts_max=1)
    with stage.database.write() as connection:
        run_id = stage.ledger.submit(connection, new, waiting_max=100, streams=1).id
    assert [(job["id"], job["model"]) for job in listed(web, "queued")] == [(run_id, "some-model")]
    with web.client() as client:
        assert client.post(f"{V1}/system/jobs/{run_id}/cancel").json()["model"] == "some-model"


def test_a_job_is_cancelled_by_the_operator(web: Web, stage: Stage) -> None:
    """Waiting: at once. Running: it is told to stop, and everybody sees that. Unknown: 404."""
    running, waiting = say(web), say(web)
    stage.take(running)
    with web.client() as client:
        assert client.post(f"{V1}/system/jobs/{waiting}/cancel").json()["state"] == "cancelled"
        answer = client.post(f"{V1}/system/jobs/{running}/cancel").json()
        assert (answer["state"], answer["stop_requested"]) == ("running", True)
        assert client.post(f"{V1}/system/jobs/nobody/cancel").status_code == 404
    assert stage.ledger.stops(NODE) == {running}


def test_a_dead_job_is_tried_again_or_discarded(web: Web, stage: Stage) -> None:
    """Retry puts it back on its queue; discard takes it away for good, and only what was given up."""
    first, second, alive = say(web), say(web), say(web)
    for run_id in (first, second):
        bury(stage, run_id)
    dead = {job["id"]: job for job in listed(web, "dead")}
    assert {first, second} <= dead.keys()
    assert dead[first]["error"] == "it broke"
    with web.client() as client:
        assert client.post(f"{V1}/system/jobs/{first}/retry").status_code == 202
        assert stage.record(first).state == "queued"
        assert client.delete(f"{V1}/system/jobs/{second}").status_code == 204
        assert client.delete(f"{V1}/system/jobs/{second}").status_code == 404
        assert client.delete(f"{V1}/system/jobs/{alive}").status_code == 409
    assert stage.record(alive).state == "queued"


def test_status_tells_queues_and_what_hardware_tells(web: Web, stage: Stage) -> None:
    """Depth, age of the oldest and wait of a queue; temperature, rates and the last fault of a device."""
    say(web)
    say(web)
    stage.report(tokens_per_s=12.5, last_fault="It was pulled out.", last_fault_at=5.0, health={"temperature_c": 61.0})
    with web.client() as client:
        status = client.get(f"{V1}/system/status").json()
    pool = next(pool for pool in status["pools"] if pool["name"] == "chat")
    assert pool["waiting"] == 2
    assert abs(pool["oldest_at"] - time.time()) < 30
    device = pool["devices"][0]
    assert (device["tokens_per_s"], device["last_fault"]) == (12.5, "It was pulled out.")
    assert device["health"] == {"temperature_c": 61.0}
    assert abs(status["at"] - time.time()) < 30


def test_a_device_in_quarantine_serves_nothing(web: Web, stage: Stage) -> None:
    """Its streams count neither in the status nor in the metrics; those of one that the CPU stands in for do."""
    found = []
    for fields in ({"state": "quarantined"}, {"state": "ready", "fallback": True}):
        stage.report(streams=4, **fields)
        with web.client() as client:
            pools = client.get(f"{V1}/system/status").json()["pools"]
            metrics = client.get("/metrics").text
        pool = next(pool for pool in pools if pool["name"] == "chat")
        figure = re.search(rf'^coralreef_node_streams{{node="{NODE}",pool="chat"}} (\S+)$', metrics, re.MULTILINE)
        assert figure is not None
        found.append((pool["streams"], float(figure[1])))
    assert found == [(0, 0), (4, 4)]


def test_a_device_of_a_pool_changes_its_model_not_its_pool(web: Web, stage: Stage) -> None:
    """The decision is stored, announced to the worker and shown; it can be taken back; a wrong one is refused."""
    store = PlacementStore(stage.database)
    path = f"{V1}/system/devices/{NODE}/place"
    with web.client() as client, stage.redis.pubsub() as heard:
        heard.subscribe(keys.PLACEMENT_CHANNEL)
        assert heard.get_message(timeout=5) is not None
        placed = client.post(path, json={"pool": "chat", "model": "other-model"})
        assert (placed.status_code, placed.json()["decided_by"]) == (202, "operator")
        announced = heard.get_message(timeout=5)
        assert announced is not None
        assert announced["data"] == NODE.encode()
        place = store.get(NODE)
        assert place is not None
        assert (place.pool, place.model, place.tier, place.routes) == (
            "chat",
            "other-model",
            "pool",
            ("model/other-model",),
        )
        status = client.get(f"{V1}/system/status").json()
        shown = next(d for p in status["pools"] for d in p["devices"] if d["node"] == NODE)
        assert (shown["place"]["model"], shown["movable"]) == ("other-model", False)
        assert client.post(path, json={"pool": "embed"}).json()["code"] == "not_movable"
        assert client.post(path, json={"pool": "nowhere"}).json()["code"] == "unknown_pool"
        assert client.post(f"{V1}/system/devices/nobody/place", json={"pool": "chat"}).status_code == 404
        assert client.delete(path).status_code == 204
        assert client.delete(path).json()["code"] == "not_decided"
    assert store.get(NODE) is None


def test_a_device_that_is_given_out_moves(start_web: Any) -> None:
    """It goes where the operator says, whoever decided before; the strategy's own decisions cannot be taken back."""
    web = start_web(queues=ALLOCATED)
    store = PlacementStore(web.stage.database)
    store.put([Place(node="simulated-1", pool="chat", tier="hot", decided_by="controller")])
    with web.client() as client:
        path = f"{V1}/system/devices/simulated-1/place"
        assert client.delete(path).json()["code"] == "not_decided"
        assert client.post(path, json={"pool": "embed"}).json()["version"] == 2
        status = client.get(f"{V1}/system/status").json()
        embed = next(pool for pool in status["pools"] if pool["name"] == "embed")
        assert [(device["node"], device["movable"]) for device in embed["devices"]] == [("simulated-1", True)]
        assert [device["node"] for device in status["unplaced"]] == ["simulated-2", "simulated-3"]
        assert status["strategy"] == "dynamic"
        assert client.post(path, json={"pool": ""}).json()["pool"] == ""
        assert client.delete(path).status_code == 204


PLACES = """
version: 1
pools:
  chat: {queue: chat, devices: ["cpu@elsewhere"], model: own}
  embed: {queue: embed, devices: ["cpu@elsewhere"], model: encoder}
  index: {queue: index}
allocation: {strategy: dedicated, devices: ["cpu:0@elsewhere", "pci:0@elsewhere"], dedicated: {personas: 1}}
"""


def test_a_model_that_a_device_cannot_serve_is_not_decided(start_web: Any) -> None:
    """Unknown models, files by their path, the encoder, pools without models, kinds that cannot: 404, 409 and 422."""
    web = start_web(queues=PLACES)
    refused = {
        ("chat-cpu.elsewhere", "chat", "nosuch-model"): (404, "unknown_model"),
        ("chat-cpu.elsewhere", "chat", "smollm2-135m-instruct"): (404, "unknown_model"),  # known, but not here
        ("chat-cpu.elsewhere", "chat", "/etc/passwd"): (422, "bad_name"),
        ("chat-cpu.elsewhere", "chat", "../../etc/passwd"): (422, "bad_name"),
        ("embed-cpu.elsewhere", "embed", "another"): (404, "unknown_model"),
        ("cpu-0.elsewhere", "nowhere", ""): (404, "unknown_pool"),
        ("pci-0.elsewhere", "chat", ""): (409, "not_possible"),
        ("nobody", "chat", ""): (404, "unknown_device"),
    }
    with web.client() as client:
        for (node, pool, model), expected in refused.items():
            answer = client.post(f"{V1}/system/devices/{node}/place", json={"pool": pool, "model": model})
            assert (answer.status_code, answer.json()["code"]) == expected, answer.text
            assert answer.headers["Content-Type"] == "application/problem+json"
    assert PlacementStore(web.stage.database).all() == {}


def until(client: Any, wanted: Any) -> dict[str, Any]:
    """The first event of which this is true."""
    while True:
        event: dict[str, Any] = client.get()
        if wanted(event):
            return event


def test_the_live_view_begins_whole_and_goes_on_with_changes(web: Web, stage: Stage) -> None:
    """First everything; then only what differs, jobs too; no longer once it was sent away."""
    stage.report()
    with web.socket() as client:
        client.send(type="watch_system")
        first = client.get()
        assert (first["type"], first["snapshot"]) == ("system", True)
        assert first["devices"][NODE]["state"] == "ready"
        assert first["pools"]["chat"]["waiting"] == 0
        assert first["reef"]["broker"] == "ok"
        run_id = say(web)
        event = until(client, lambda event: run_id in event.get("jobs", {}))
        assert event["jobs"][run_id]["state"] == "queued"
        stage.report(running=1)
        event = until(client, lambda event: NODE in event.get("devices", {}))
        assert event["devices"] == {NODE: {"running": 1}}
        client.send(type="watch_system", on=False)
        client.send(type="ping")
        client.until("pong")
        client.send(type="ping")
        assert client.get() == {"type": "pong"}


def test_the_live_view_tells_faults_and_models(web: Web, stage: Stage) -> None:
    """A device that fails and comes back, and a model on its way, are events of their own."""
    stage.report(pid=1)
    with web.socket() as client:
        client.send(type="watch_system")
        client.get()
        stage.report(pid=1, state="failed", last_fault="The delegate could not be opened.")
        told = until(client, lambda event: event["type"] == "device_changed")
        assert (told["change"], told["node"]) == ("failed", NODE)
        assert "could not be opened" in told["message"]
        stage.report(pid=1)
        assert until(client, lambda event: event["type"] == "device_changed")["change"] == "back"
        notice = ModelNotice(name="some-model", state="LOADING", progress=0.5)
        stage.redis.publish(keys.SYSTEM_CHANNEL, encode(notice))
        told = until(client, lambda event: event["type"] == "model")
        assert (told["name"], told["progress"]) == ("some-model", 0.5)


def test_the_live_view_says_when_nothing_newer_is_known(start_web: Any, own_redis: Any) -> None:
    """The broker goes: what was known stays, with a sentence; it comes back: the changes go on."""
    web = start_web()
    web.stage.report()
    with web.socket() as client:
        client.send(type="watch_system")
        assert client.get()["snapshot"]
        own_redis.stop()
        trouble = until(client, lambda event: event.get("trouble"))
        assert "broker" in trouble["trouble"]
        assert "devices" not in trouble
        own_redis.start()
        until(client, lambda event: event["type"] == "system" and not event.get("trouble"))


def sample(at: float) -> Sample:
    chat = PoolSample(queued=1, running=2, wait_s=None, devices=1, busy=1, tokens_per_s=3.0, inferences_per_s=0.0)
    return Sample(at=at, pools={"chat": chat})


@pytest.fixture
def no_history(stage: Stage) -> Iterator[None]:
    """A reef that was never sampled."""
    stage.redis.delete(keys.HISTORY)
    yield
    stage.redis.delete(keys.HISTORY)


@pytest.mark.usefixtures("no_history")
def test_several_sweepers_keep_one_sample_a_step(stage: Stage) -> None:
    """Eight that sample in the same moment, and one that is late: of each step the first stays."""
    at = time.time() // keys.HISTORY_STEP_S * keys.HISTORY_STEP_S
    kept: list[bool] = []
    start = threading.Barrier(8)

    def one(step: int) -> None:
        start.wait()
        kept.append(history.append(stage.redis, sample(at - 20 + step * 0.1)))

    threads = [threading.Thread(target=one, args=(step,)) for step in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept) == [False] * 7 + [True]
    assert history.append(stage.redis, sample(at))
    assert not history.append(stage.redis, sample(at - 20))
    assert len(history.read(stage.redis)) == 2


@pytest.mark.usefixtures("no_history")
def test_the_history_is_one_hour_and_can_be_read_on(web: Web, stage: Stage) -> None:
    """Older samples go; `after` gives what is new."""
    now = time.time()
    for step in range(keys.HISTORY_MAX + 40, -1, -1):
        history.append(stage.redis, sample(now - step * keys.HISTORY_STEP_S))
    assert stage.redis.xlen(keys.HISTORY) == keys.HISTORY_MAX
    with web.client() as client:
        answer = client.get(f"{V1}/system/history").json()
        assert answer["step_s"] == keys.HISTORY_STEP_S
        samples = answer["samples"]
        assert len(samples) >= keys.HISTORY_MAX - 1
        assert samples[-1]["pools"]["chat"]["tokens_per_s"] == 3.0
        after = client.get(f"{V1}/system/history", params={"after": samples[-3]["at"]}).json()["samples"]
        assert after == samples[-2:]
        assert client.get(f"{V1}/system/history", params={"after": "nan"}).status_code == 400
