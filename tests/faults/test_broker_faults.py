"""The broker is killed, cut, frozen and emptied under load: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

import httpx
import pytest
import redis
from chat_client import ChatClient, tokens_at_least
from whole_product import Reef, StartReef

TEXT = "Tell me something about the sea and its fish. " * 2


def broker(reef: Reef) -> redis.Redis:
    """A client of the product's own broker."""
    return redis.Redis.from_url(reef.processes.settings.redis_url)


def all_answered_once(reef: Reef, run_ids: list[str]) -> None:
    """Every run is done and its session holds exactly one reply."""
    deadline = time.monotonic() + 60
    for run_id in run_ids:
        while (run := reef.get(f"/api/v1/runs/{run_id}"))["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, run
            time.sleep(0.1)
        assert run["state"] == "done", run
        history = reef.get(f"/api/v1/chat/history/{run['session_id']}")["messages"]
        assert Counter(message["role"] for message in history) == {"user": 1, "assistant": 1}, history


def submit(reef: Reef, count: int) -> list[str]:
    """Accept this many turns without waiting for their answers."""
    ids = []
    with reef.client() as client:
        for n in range(count):
            body = {"persona_id": "alice", "message": f"{n} {TEXT}", "wait": False}
            answer = client.post("/api/v1/chat", json=body)
            assert answer.status_code == httpx.codes.ACCEPTED, answer.text
            ids.append(answer.json()["run_id"])
    return ids


@pytest.mark.parametrize(
    ("how", "gateway"), [(signal.SIGTERM, False), (signal.SIGKILL, True)], ids=["restart, web", "kill, gateway"]
)
def test_a_broker_restart_in_mid_reply_is_not_noticed_by_the_reader(
    start_reef: StartReef, how: signal.Signals, gateway: bool
) -> None:
    """The reply arrives whole on the same socket, whichever process holds it, written by the same worker process."""
    reef = start_reef(gateway=gateway)
    worker = reef.processes.pids()["chat-simulated"]
    with ChatClient(reef.url) as chat:
        run = chat.follow(chat.say(TEXT * 3), tokens_at_least(5))
        killed = reef.kill("broker", how)
        chat.finish(run)
        reef.replaced("broker", killed)
        assert run.final is not None
        assert reef.get(f"/api/v1/messages/{run.final['message_id']}")["content"] == run.text
        assert [event["attempt"] for event in run.events if event["type"] == "started"][-1] == 1
        after = chat.finish(chat.say("and now?", persona="bob"))
        assert after.text
    assert reef.processes.pids()["chat-simulated"] == worker


@pytest.mark.soak
def test_a_broker_that_dies_again_and_again_under_load_loses_and_doubles_nothing(start_reef: StartReef) -> None:
    """Three kills while forty turns are waiting and running."""
    reef = start_reef()
    ids = submit(reef, 40)
    for _ in range(3):
        time.sleep(0.7)  # the load runs on between the kills
        reef.kill("broker")
    all_answered_once(reef, ids)


def test_cut_connections_run_nothing_twice(start_reef: StartReef) -> None:
    """CLIENT KILL of every connection, six times, under load."""
    reef = start_reef()
    ids = submit(reef, 24)
    with broker(reef) as client:
        for _ in range(6):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            time.sleep(0.25)  # let some of them reconnect, so that the next cut hits new connections
    all_answered_once(reef, ids)


def test_an_emptied_broker_loses_no_queued_job(start_reef: StartReef) -> None:
    """FLUSHALL with waiting and running turns: hints and event logs are gone, every turn is answered all the same."""
    reef = start_reef()
    with ChatClient(reef.url) as chat:
        watched = chat.follow(chat.say(TEXT * 3), tokens_at_least(5))
        ids = submit(reef, 24)
        with broker(reef) as client:
            client.flushall()
        chat.finish(watched)
        assert watched.final is not None
        assert reef.get(f"/api/v1/messages/{watched.final['message_id']}")["content"] == watched.text
    all_answered_once(reef, [*ids, watched.run_id])


def test_a_frozen_broker_is_a_503_not_a_pile_of_requests(start_reef: StartReef) -> None:
    """While the broker is stopped new turns are refused within seconds; the page and its history still answer."""
    reef = start_reef()
    pid = reef.processes.pids()["broker"]
    session = submit(reef, 1)
    all_answered_once(reef, session)
    os.kill(pid, signal.SIGSTOP)
    try:
        answers: list[httpx.Response] = []

        def ask() -> None:
            with reef.client() as client:
                answers.append(client.post("/api/v1/chat", json={"persona_id": "alice", "message": "hi"}))

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        assert reef.get("/healthz")
        assert reef.get("/api/v1/sessions")["sessions"]
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [503] * 10
        assert all("Retry-After" in answer.headers for answer in answers)
        assert answers[0].headers["content-type"].startswith("application/problem+json")
    finally:
        os.kill(pid, signal.SIGCONT)
    with reef.client() as client:
        deadline = time.monotonic() + 20
        while client.post("/api/v1/chat", json={"persona_id": "alice", "message": "hi"}).status_code != httpx.codes.OK:
            assert time.monotonic() < deadline
    counts = reef.get("/api/v1/system/status")["runs"]
    assert counts["queued"] == 0, "what was refused was not accepted behind the client's back"


def test_a_full_broker_refuses_and_recovers(start_reef: StartReef) -> None:
    """maxmemory reached: 503 while it lasts, service afterwards."""
    reef = start_reef()
    with broker(reef) as client, reef.client() as web:
        client.config_set("maxmemory", "1")
        refused = web.post("/api/v1/chat", json={"persona_id": "alice", "message": "hi"})
        client.config_set("maxmemory", "0")
        assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE, refused.text
        answered = web.post("/api/v1/chat", json={"persona_id": "alice", "message": "hi"})
        assert answered.status_code == httpx.codes.OK, answered.text
