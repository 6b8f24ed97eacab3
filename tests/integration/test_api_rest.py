"""The REST endpoints against a running web process, a real broker and a device that is played by hand."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from reef import keys

if TYPE_CHECKING:
    from conftest import Web
    from played_device import Answerer, Stage

V1 = "/api/v1"
PATIENCE_S = 20.0
PERSONA = {"name": "Test Person", "system_prompt": "Be brief.", "temperature": 0.3, "greeting": "Hi **there**!"}


def test_a_persona_lives_and_dies(web: Web) -> None:
    """Create, read, replace, remember, delete: each answer is the persona as stored."""
    with web.client() as client:
        made = client.post(f"{V1}/personas", json=PERSONA)
        assert made.status_code == 201
        persona = made.json()
        where = made.headers["Location"]
        assert persona | PERSONA == persona
        assert persona["warnings"] == []
        odd = client.put(where, json=PERSONA | {"model": "nobody-has-it", "system_prompt": "a" * 16_000}).json()
        assert [sentence.split()[:5] for sentence in odd["warnings"]] == [
            ["There", "is", "no", "chat", "model"],
            ["The", "instructions", "have", "about", "4,000"],
        ]
        assert client.put(where, json=PERSONA | {"model": "smollm2-135m-instruct"}).json()["warnings"] == []
        persona = client.put(where, json=PERSONA).json()
        assert client.get(where).json() == persona
        changed = client.put(where, json=PERSONA | {"name": "Other", "color": "#112233"}).json()
        assert (changed["name"], changed["color"], changed["id"]) == ("Other", "#112233", persona["id"])
        memory = client.post(f"{where}/memory", json={"text": "likes corals"})
        assert memory.status_code == 201
        assert memory.json()["text"] == "likes corals"
        assert persona["id"] in {entry["id"] for entry in client.get(f"{V1}/personas").json()["personas"]}
        assert client.delete(where).status_code == 204
        assert client.get(where).status_code == 404
        assert client.delete(where).status_code == 404


def test_a_session_begins_with_the_greeting(web: Web) -> None:
    """The persona's greeting is the first message, as safe HTML too; the session can be named and found."""
    with web.client() as client:
        persona = client.post(f"{V1}/personas", json=PERSONA).json()
        session = client.post(f"{V1}/sessions", json={"persona_id": persona["id"]})
        assert session.status_code == 201
        where = session.json()["id"]
        assert session.json()["messages"] == 1
        history = client.get(f"{V1}/chat/history/{where}").json()
        assert [(m["role"], m["content"]) for m in history["messages"]] == [("assistant", "Hi **there**!")]
        assert history["messages"][0]["html"] == "<p>Hi <strong>there</strong>!</p>\n"
        renamed = client.patch(f"{V1}/sessions/{where}", json={"title": "Of corals"}).json()
        assert renamed["title"] == "Of corals"
        found = client.get(f"{V1}/sessions", params={"query": "of CORALS"}).json()["sessions"]
        assert [entry["id"] for entry in found] == [where]
        client.post(f"{V1}/sessions", json={"persona_id": persona["id"]})
        of = {"persona_id": persona["id"], "limit": 1}
        newest = client.get(f"{V1}/sessions", params=of).json()
        oldest = client.get(f"{V1}/sessions", params=of | {"before": newest["next"]}).json()
        assert ([entry["id"] for entry in oldest["sessions"]], oldest["next"]) == ([where], None)
        assert client.get(f"{V1}/sessions", params={"before": "yesterday"}).status_code == 400
        assert client.delete(f"{V1}/chat/history/{where}").status_code == 204
        assert client.get(f"{V1}/chat/history/{where}").status_code == 404


def test_chat_waits_for_the_reply(web: Web, answering: Answerer) -> None:
    """POST /chat gives the finished message, its HTML, the token counts; history has both sides."""
    with web.client() as client:
        answer = client.post(f"{V1}/chat", json={"persona_id": "alice", "message": "Hello!"})
        assert answer.status_code == 200, answer.text
        reply = answer.json()
        assert reply["message"]["content"].strip() == answering.text
        assert reply["message"]["html"].startswith("<p>Hello")
        assert reply["usage"] == {"prompt": 7, "completion": 4}
        history = client.get(f"{V1}/chat/history/{reply['session_id']}").json()
        assert [message["role"] for message in history["messages"]] == ["user", "assistant"]
        assert history["active_runs"] == []
        assert client.get(f"{V1}/messages/{reply['message']['id']}").json() == reply["message"]
        assert client.get(f"{V1}/runs/{reply['run_id']}").json()["state"] == "done"


def test_chat_need_not_wait(web: Web, stage: Stage) -> None:
    """With wait false the run's ids come at once, and history shows that it is active."""
    with web.client() as client:
        answer = client.post(f"{V1}/chat", json={"persona_id": "alice", "message": "Hello!", "wait": False})
        assert answer.status_code == 202
        turn = answer.json()
        assert turn["position"] == 1
        history = client.get(f"{V1}/chat/history/{turn['session_id']}").json()
        assert [run["run_id"] for run in history["active_runs"]] == [turn["run_id"]]
        assert history["active_runs"][0]["reply_message_id"] == turn["reply_message_id"]
        assert history["session"]["active_run_id"] == turn["run_id"]
        assert stage.take(turn["run_id"]).begin().say("yes").done() == turn["reply_message_id"]
        assert client.get(f"{V1}/messages/{turn['reply_message_id']}").json()["content"] == "yes"


def test_the_same_idempotency_key_makes_one_run(web: Web, stage: Stage) -> None:
    """A client that got no answer may ask again: same run, one message."""
    with web.client() as client:
        ask = {"persona_id": "alice", "message": "Once", "wait": False}
        key = {"Idempotency-Key": "a-key-of-this-test"}
        first = client.post(f"{V1}/chat", json=ask, headers=key).json()
        again = client.post(f"{V1}/chat", json=ask, headers=key).json()
        assert (first["run_id"], first["session_id"]) == (again["run_id"], again["session_id"])
        assert stage.waiting() == [first["run_id"]]
        stage.take().begin().say("done").done()
        late = client.post(f"{V1}/chat", json=ask | {"wait": True}, headers=key)
        assert late.json()["message"]["content"] == "done"
        history = client.get(f"{V1}/chat/history/{first['session_id']}").json()
        assert len(history["messages"]) == 2


def test_an_idempotency_key_belongs_to_one_message(web: Web, stage: Stage) -> None:
    """With another text or persona it is refused: 422, and nothing new is kept or run."""
    with web.client() as client:
        ask = {"persona_id": "alice", "message": "First", "wait": False}
        key = {"Idempotency-Key": "a-key-for-two"}
        first = client.post(f"{V1}/chat", json=ask, headers=key).json()
        before = len(client.get(f"{V1}/sessions?limit=500").json()["sessions"])
        for other in ({"message": "Second"}, {"persona_id": "bob"}):
            answer = client.post(f"{V1}/chat", json=ask | other, headers=key)
            assert (answer.status_code, answer.json()["code"]) == (422, "key_reused")
        assert stage.waiting() == [first["run_id"]]
        assert len(client.get(f"{V1}/sessions?limit=500").json()["sessions"]) == before


def test_a_busy_session_is_told_so(web: Web) -> None:
    """Two replies of one persona in one session cannot be written at once: 409 with the run that is."""
    with web.client() as client:
        first = client.post(f"{V1}/chat", json={"persona_id": "alice", "message": "a", "wait": False}).json()
        ask = {"persona_id": "alice", "message": "b", "session_id": first["session_id"]}
        answer = client.post(f"{V1}/chat", json=ask)
        assert answer.status_code == 409
        assert answer.json()["code"] == "session_busy"
        assert answer.json()["run_id"] == first["run_id"]


def test_a_full_queue_says_when_to_come_again(web: Web) -> None:
    """Beyond the pool's limit: 429, Retry-After, and how long the line is; nothing of the message is kept."""
    with web.client() as client:
        for n in range(8):
            ask = {"persona_id": "alice", "message": f"m{n}", "wait": False}
            assert client.post(f"{V1}/chat", json=ask).status_code == 202
        before = len(client.get(f"{V1}/sessions?limit=500").json()["sessions"])
        answer = client.post(f"{V1}/chat", json={"persona_id": "alice", "message": "too many"})
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["queue"]["waiting"] == 8
        assert answer.json()["retry_after_s"] > 0
        assert len(client.get(f"{V1}/sessions?limit=500").json()["sessions"]) == before
        openai = client.post(
            "/v1/chat/completions", json={"model": "alice", "messages": [{"role": "user", "content": "x"}]}
        )
        assert openai.status_code == 429
        assert openai.json()["error"]["type"] == "rate_limit_error"
        assert openai.json()["queue"]["waiting"] == 8


def test_stop_ends_a_waiting_run_at_once(web: Web) -> None:
    """Who waits in POST /chat gets its end, without a message; stopping again is no error."""
    answers: list[httpx.Response] = []
    with web.client() as client:
        ask = {"persona_id": "alice", "message": "never mind", "session_id": "stop-me"}
        waiter = threading.Thread(target=_post, args=(web, ask, answers))
        waiter.start()
        run_id = _active_run(client, "stop-me")
        assert client.post(f"{V1}/runs/{run_id}/stop").json() == {"run_id": run_id, "state": "cancelled"}
        waiter.join(10)
        assert answers[0].json()["message"] is None
        assert client.post(f"{V1}/runs/{run_id}/stop").status_code == 200


def test_regenerate_and_edit_replace_what_followed(web: Web, answering: Answerer) -> None:
    """A reply can be asked for again and a message be said differently; only the newest counts."""
    with web.client() as client:
        first = client.post(f"{V1}/chat", json={"persona_id": "alice", "message": "one"}).json()
        again = client.post(f"{V1}/messages/{first['message']['id']}/regenerate")
        assert again.status_code == 202
        _until_idle(client, first["session_id"])
        history = client.get(f"{V1}/chat/history/{first['session_id']}").json()["messages"]
        assert [m["role"] for m in history] == ["user", "assistant"]
        assert history[1]["id"] == again.json()["reply_message_id"]
        edited = client.post(f"{V1}/messages/{history[0]['id']}/edit", json={"message": "two"})
        assert edited.status_code == 202
        _until_idle(client, first["session_id"])
        history = client.get(f"{V1}/chat/history/{first['session_id']}").json()["messages"]
        assert [m["content"].strip() for m in history] == ["two", answering.text]
        wrong = client.post(f"{V1}/messages/{history[0]['id']}/regenerate")
        assert (wrong.status_code, wrong.json()["code"]) == (409, "not_editable")


def test_deleting_a_conversation_stops_its_run(web: Web, stage: Stage) -> None:
    """What waits in it is never answered, and a message to it does not bring it back without its messages."""
    with web.client() as client:
        ask = {"persona_id": "alice", "message": "x", "session_id": "to-be-deleted", "wait": False}
        run_id = client.post(f"{V1}/chat", json=ask).json()["run_id"]
        assert client.delete(f"{V1}/chat/history/to-be-deleted").status_code == 204
        assert stage.record(run_id).state == "cancelled"
        again = client.post(f"{V1}/chat", json=ask)
        assert (again.status_code, again.json()["code"]) == (410, "session_deleted")
        assert client.get(f"{V1}/chat/history/to-be-deleted").status_code == 404
        anew = client.post(f"{V1}/chat", json=ask | {"session_id": "never-used-before"})
        assert anew.status_code == 202


def test_a_failed_run_is_a_clear_failure(web: Web, stage: Stage) -> None:
    """A request the engine refuses is 422 for who waited, with the engine's words."""
    from reef.contracts.events import Error

    answers: list[httpx.Response] = []
    ask = {"persona_id": "alice", "message": "x"}
    waiter = threading.Thread(target=_post, args=(web, ask, answers))
    waiter.start()
    act = stage.take().begin()
    stage.ledger.finish(act.claim, "failed", error="too long")
    act.emit(Error(code="refused", message="The prompt is too long."))
    waiter.join(10)
    assert answers[0].status_code == 422
    assert answers[0].json()["detail"] == "The prompt is too long."


def test_status_shows_pools_devices_and_counts(web: Web, stage: Stage) -> None:
    """The numbers of the page of the reef: a device without a worker is missing, with one it is what it reports."""
    with web.client() as client:
        before = client.get(f"{V1}/system/status").json()
        assert before["pools"][0]["devices"][0]["state"] == "missing"
        assert client.get("/readyz").status_code == 503
        stage.report(state="loading", progress=0.4, note="reading weights")
        loading = client.get("/readyz")
        assert "loading 40%" in loading.json()["checks"]["pool chat"]
        stage.report(running=2, streams=4, simulated=True)
        status = client.get(f"{V1}/system/status").json()
        device = status["pools"][0]["devices"][0]
        assert (device["state"], device["running"], device["simulated"]) == ("ready", 2, True)
        assert status["broker"] == "ok"
        assert status["database"] == "sqlite"
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")


def test_the_reef_is_ready_while_documents_are_not(web: Web, stage: Stage) -> None:
    """Chat can be answered: green, though no worker embeds or reads files yet; the checks say so."""
    with web.client() as client:
        stage.redis.delete(keys.NODES)  # what other tests reported
        stage.report()
        ready = client.get("/readyz")
        assert ready.status_code == 200
        checks = ready.json()["checks"]
        assert (checks["pool chat"], checks["pool embed"], checks["pool index"]) == ("ok", "no worker", "no worker")


def test_the_dead_list_can_be_read_and_tried_again(web: Web, stage: Stage) -> None:
    """A job whose attempts are used up is listed; retrying it makes it wait again."""
    with web.client() as client:
        run_id = client.post(f"{V1}/chat", json={"persona_id": "alice", "message": "x", "wait": False}).json()["run_id"]
        for _ in range(3):
            stage.ledger.retry_later(stage.take(run_id).claim, "it broke", 0.0)
        assert stage.record(run_id).state == "dead"
        listed = client.get(f"{V1}/system/dead").json()["jobs"]
        assert [(job["id"], job["error"]) for job in listed if job["id"] == run_id] == [(run_id, "it broke")]
        assert client.post(f"{V1}/system/dead/{run_id}/retry").status_code == 202
        assert stage.record(run_id).state == "queued"
        assert client.post(f"{V1}/system/dead/{run_id}/retry").status_code == 409
        assert client.post(f"{V1}/system/dead/nobody/retry").status_code == 404


def test_metrics_are_one_page_of_all_processes(web: Web, stage: Stage, answering: Answerer) -> None:
    """Requests of this process, jobs of the ledger, counters of the workers; never a session or run in a label."""
    from reef.metrics import METRICS, WorkerMetrics
    from reef.ports import ReplyMeasures

    worker = WorkerMetrics("chat-simulated", "chat")
    worker.observe(
        ReplyMeasures(queue_s=0.1, first_token_s=0.2, total_s=1.0, prompt_tokens=5, completion_tokens=9, outcome="done")
    )
    stage.report(metrics=worker.text())
    with web.client() as client:
        reply = client.post(f"{V1}/chat", json={"persona_id": "alice", "message": "x"}).json()
        text = client.get("/metrics").text
        assert client.get(f"{V1}/metrics").status_code == 200
    assert 'coralreef_completion_tokens_total{node="chat-simulated",pool="chat"} 9.0' in text
    assert 'coralreef_node_up{node="chat-simulated",pool="chat"} 1.0' in text
    assert 'route="/api/v1/chat"' in text
    assert 'coralreef_turns_total{outcome="accepted",process="web"}' in text
    assert reply["run_id"] not in text
    assert reply["session_id"] not in text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {name for name in families if not name.endswith("_created")} <= set(METRICS)


def _post(web: Web, ask: dict[str, Any], answers: list[httpx.Response]) -> None:
    with web.client() as client:
        answers.append(client.post(f"{V1}/chat", json=ask))


def _active_run(client: httpx.Client, session_id: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = client.get(f"{V1}/chat/history/{session_id}")
        if answer.status_code == 200 and answer.json()["active_runs"]:
            return str(answer.json()["active_runs"][0]["run_id"])
        assert time.monotonic() < deadline, "the run never became active"


def _until_idle(client: httpx.Client, session_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        history: dict[str, Any] = client.get(f"{V1}/chat/history/{session_id}").json()
        if not history["active_runs"]:
            return history
        assert time.monotonic() < deadline, "the run never ended"


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/personas", "/nothing"])
def test_every_answer_has_an_id_and_safe_headers(web: Web, path: str) -> None:
    """A request can be found in the log; a browser guesses nothing about an answer."""
    with web.client() as client:
        answer = client.get(path, headers={"X-Request-ID": "mine-1"})
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
