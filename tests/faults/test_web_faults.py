"""The front door dies or is flooded: runs go on, clients resume, the page stays responsive."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest
from chat_client import ChatClient, tokens_at_least
from whole_product import SIMULATED_QUEUES, Reef, StartReef

from app.serve import GRACE_S

TEXT = "Tell me something about the sea and its fish. " * 4


def test_a_client_resumes_after_the_web_process_was_killed(start_reef: StartReef) -> None:
    """kill -9 of the front door that holds its sockets itself: after its restart every client gets the rest of its
    replies, each token once."""
    reef = start_reef(gateway=False)
    assert "gateway" not in reef.processes.pids()
    assert reef.get("/api/v1/system/status")["gateway"] == "off"
    with ChatClient(reef.url) as first, ChatClient(reef.url) as second:
        run = first.follow(first.say(TEXT), tokens_at_least(5))
        second.runs[run.run_id] = type(run)(run.run_id, run.session_id)
        second.send({"type": "resume", "run_id": run.run_id, "last_seq": 0})
        second.follow(second.runs[run.run_id], tokens_at_least(5))
        reef.kill("web")
        first.finish(run, reconnect=True)
        second.finish(second.runs[run.run_id], reconnect=True)
    assert run.final is not None
    stored = reef.get(f"/api/v1/messages/{run.final['message_id']}")["content"]
    assert run.text == stored
    assert second.runs[run.run_id].text == stored
    assert "restarted" not in run.types, "the worker was not touched"


def test_a_stop_waits_for_no_connection_that_is_merely_open(start_reef: StartReef) -> None:
    """A browser's idle connection, one that never asked anything and a live socket: the web process ends at once."""
    reef = start_reef()
    port = int(reef.url.rpartition(":")[2])
    with reef.client() as idle, socket.create_connection(("127.0.0.1", port)) as silent, ChatClient(reef.url):
        idle.get("/healthz").raise_for_status()
        began = time.monotonic()
        reef.processes.stop()
        assert time.monotonic() - began < GRACE_S
        assert silent.recv(1) == b""
    assert "cut off" not in (reef.data_dir / "logs" / "web.log").read_text(encoding="utf-8")


def test_random_reconnects_lose_and_double_no_token(reef: Reef) -> None:
    """A client that drops its connection after every few tokens has the whole reply at the end."""
    with ChatClient(reef.url) as chat:
        run = chat.say(TEXT)
        count = 0
        while run.final is None:
            count += 3
            enough = tokens_at_least(count)
            chat.follow(run, lambda one, enough=enough: one.final is not None or enough(one))
            if run.final is None:
                chat.close()
                chat.open()
    assert count > 6
    assert reef.get(f"/api/v1/messages/{run.final['message_id']}")["content"] == run.text


def test_a_disconnect_stops_nothing_and_stop_works_from_anywhere(reef: Reef) -> None:
    """The run outlives its client; another client stops it, twice without harm, and what was said is kept."""
    with ChatClient(reef.url) as chat:
        run = chat.follow(chat.say(TEXT * 4), tokens_at_least(3))
    with ChatClient(reef.url) as other:
        other.runs[run.run_id] = seen = type(run)(run.run_id, run.session_id)
        other.send({"type": "resume", "run_id": run.run_id, "last_seq": 0})
        other.follow(seen, tokens_at_least(6))
        with reef.client() as client:
            for _ in range(2):
                client.post(f"/api/v1/runs/{run.run_id}/stop").raise_for_status()
        other.finish(seen, 10)
    assert seen.final is not None
    assert seen.final["type"] == "stopped"
    assert reef.get(f"/api/v1/messages/{seen.final['message_id']}")["content"] == seen.text


@pytest.mark.soak
def test_two_hundred_chats_at_once_are_answered_or_refused(start_reef: StartReef) -> None:
    """Each gets its reply or a 429 with Retry-After; none is lost; the front door answers all the while."""
    reef = start_reef(SIMULATED_QUEUES.replace("waiting_max: 64", "waiting_max: 120"))
    answers: list[tuple[int, httpx.Headers]] = []
    slow: list[float] = []
    over = threading.Event()

    def ask(n: int) -> None:
        with httpx.Client(base_url=reef.url, timeout=120, trust_env=False) as client:
            answer = client.post("/api/v1/chat", json={"persona_id": "alice", "message": f"chat {n}"})
            answers.append((answer.status_code, answer.headers))

    def look() -> None:
        with reef.client() as client:
            while not over.wait(0.05):
                began = time.monotonic()
                client.get("/healthz").raise_for_status()
                slow.append(time.monotonic() - began)

    watcher = threading.Thread(target=look)
    watcher.start()
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    over.set()
    watcher.join()
    codes = [code for code, _ in answers]
    assert len(codes) == 200
    assert set(codes) <= {200, 429}, codes
    assert codes.count(200) >= 120
    assert all(int(headers["Retry-After"]) >= 1 for code, headers in answers if code == 429)
    counts = reef.get("/api/v1/system/status")["runs"]
    assert (counts["queued"], counts["running"], counts["dead"]) == (0, 0, 0)
    assert len(slow) > 20
    assert sorted(slow)[len(slow) // 2] < 2.0, "the page froze"
