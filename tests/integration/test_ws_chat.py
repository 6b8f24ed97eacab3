"""A conversation over the WebSocket: the protocol, two tabs, resuming, stopping, falling behind.

The web process and the gateway host the same sessions: each fact is held for both.
"""

from __future__ import annotations

import json
import re
import socket as sockets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from reef import keys, streams
from reef.contracts.events import Restarted, Stopped, Token

if TYPE_CHECKING:
    from conftest import Socket, Web
    from played_device import Stage

TextOf = Callable[[list[dict[str, Any]]], str]
FINAL = ("done", "stopped", "error")
THE_WEB_PROCESS = pytest.mark.parametrize("web", ["web"], indirect=True)
"""For what takes seconds and is no matter of the host, or held for the gateway in test_gateway_host.py."""


@pytest.fixture(params=["web", "gateway"])
def web(request: pytest.FixtureRequest, shared_web: Web) -> Iterator[Web]:
    """A web process whose WebSockets are its own, or a gateway's."""
    shared_web.stage.clear()
    yield shared_web if request.param == "web" else request.getfixturevalue("shared_gateway")
    shared_web.stage.clear()


def test_a_turn_is_told_in_the_words_of_the_protocol(web: Web, stage: Stage) -> None:
    """queued, started, typing, token…, done: flat objects with growing numbers and the run's ids."""
    with web.socket() as client:
        queued = client.chat("Hello!", session_id="abc123", stream=True)
        assert (queued["position"], queued["session_id"], queued["persona_id"]) == (1, "abc123", "alice")
        stage.take(queued["run_id"]).begin().say("Hi", " there").done()
        events = [queued, *client.until("done")]
    assert [event["type"] for event in events] == ["queued", "started", "typing", "token", "token", "done"]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert {event["run_id"] for event in events} == {queued["run_id"]}
    assert events[-1]["usage"] == {"prompt": 7, "completion": 2}
    with web.client() as http:
        assert http.get(f"/api/v1/messages/{events[-1]['message_id']}").json()["content"] == "Hi there"


def test_without_streaming_the_text_comes_in_one_piece(web: Web, stage: Stage) -> None:
    """`"stream": false`: one token event with everything, then done."""
    with web.socket() as client:
        queued = client.chat(stream=False)
        stage.take(queued["run_id"]).begin().say("one ", "two ", "three").done()
        events = client.until("done")
    assert [event["content"] for event in events if event["type"] == "token"] == ["one two three"]
    assert events[-2]["type"] == "token"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "not_json"),
        ("", "not_json"),
        ("[]", "invalid"),
        ("null", "invalid"),
        ('{"type":"fly"}', "invalid"),
        ('{"type":"chat","persona_id":"alice"}', "invalid"),
        ('{"type":"chat","persona_id":5,"message":"x"}', "invalid"),
        ('{"type":"chat","persona_id":"nobody","message":"x"}', "unknown_persona"),
        ('{"type":"chat","persona_id":"alice","message":""}', "invalid"),
        ('{"type":"chat","persona_id":"alice","message":"a\\u0000b"}', "nul"),
        ('{"type":"chat","persona_id":"alice","message":"\\ud800"}', "not_json"),
        ('{"type":"chat","persona_id":"alice","message":"x","session_id":"../etc"}', "invalid"),
        ('{"type":"resume","run_id":"nobody"}', "unknown_run"),
        ('{"type":"resume","run_id":"x","last_seq":-1}', "invalid"),
        ('{"type":"stop","run_id":"nobody"}', "unknown_run"),
        (json.dumps({"type": "chat", "persona_id": "alice", "message": "x" * 32_001}), "invalid"),
        ("x" * 1_000_000, "too_long"),
        (b"\x00\xff", "binary"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "not_json"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_frame_is_answered_and_the_socket_stays_open(web: Web, frame: str | bytes, code: str) -> None:
    """Each gets an `error` event without a run; the next frame is served."""
    with web.socket(max_size=None) as client:
        client.connection.send(frame)
        answer = client.get()
        assert (answer["type"], answer["code"], answer["run_id"]) == ("error", code, "")
        assert answer["message"]
        client.send(type="ping")
        assert client.get() == {"type": "pong"}


def test_two_tabs_see_the_same_words(web: Web, stage: Stage, text_of: TextOf) -> None:
    """A tab that watches a session hears of runs that another tab starts, from their first event, nothing twice."""
    with web.socket() as first, web.socket() as second:
        for tab in (first, second):
            tab.send(type="watch", session_id="shared")
            tab.send(type="ping")
            tab.until("pong")
        queued = first.chat(session_id="shared")
        act = stage.take(queued["run_id"]).begin().say("a ", "b ")
        act.say("c").done()
        mine, theirs = [queued, *first.until("done")], second.until("done")
        first.send(type="ping")
        assert first.get()["type"] == "pong", "nothing is told twice"
    assert [event["seq"] for event in mine] == [event["seq"] for event in theirs]
    assert text_of(mine) == text_of(theirs) == "a b c"


def test_a_watch_finds_what_runs_already(web: Web, stage: Stage, text_of: TextOf) -> None:
    """A tab opened in mid-reply gets it from its beginning."""
    with web.socket() as first, web.socket() as late:
        queued = first.chat(session_id="under-way")
        act = stage.take(queued["run_id"]).begin().say("a ")
        first.until("token")
        late.send(type="watch", session_id="under-way")
        late.until("token")
        act.say("b").done()
        assert text_of(first.until("done")) == "b"
        assert text_of(late.until("done")) == "b"


def test_a_client_that_comes_back_misses_nothing(web: Web, stage: Stage, text_of: TextOf) -> None:
    """It says the last number it saw; what follows is exactly the rest, while the reply goes on."""
    with web.socket() as client:
        queued = client.chat()
        act = stage.take(queued["run_id"]).begin().say("one ", "two ")
        seen = [*client.until("token"), *client.until("token")]
    act.say("three ", "four ")
    with web.socket() as client:
        client.send(type="resume", run_id=queued["run_id"], last_seq=seen[-1]["seq"])
        resumed = client.get()
        assert (resumed["type"], resumed["after_seq"], resumed["state"]) == ("resumed", seen[-1]["seq"], "running")
        rest = client.until("token")
        act.say("five").done()
        rest += client.until("done")
    assert text_of(seen + rest) == "one two three four five"
    numbers = [event["seq"] for event in seen + rest]
    assert numbers == sorted(set(numbers))


def test_an_old_run_can_be_resumed_when_its_stream_is_gone(web: Web, stage: Stage, text_of: TextOf) -> None:
    """The records tell it: the text once, marked as told again, and the same end."""
    with web.socket() as client:
        queued = client.chat()
        message_id = stage.take(queued["run_id"]).begin().say("kept ", "text").done()
        client.until("done")
        stage.redis.delete(keys.run_events(queued["run_id"]))
        _age(stage, queued["run_id"])
    with web.socket() as client:
        client.send(type="resume", run_id=queued["run_id"], last_seq=3)
        events = client.until(*FINAL)
    assert [event["type"] for event in events] == ["resumed", "restarted", "token", "done"]
    assert text_of(events) == "kept text"
    assert events[-1]["message_id"] == message_id


def test_an_end_that_was_never_told_is_found_in_the_ledger(web: Web, stage: Stage, text_of: TextOf) -> None:
    """The worker died between its commit and its last event: the client gets `done` within seconds, no text twice."""
    with web.socket() as client:
        queued = client.chat()
        act = stage.take(queued["run_id"]).begin().say("all ", "of it")
        act.store_end()
        events = client.until(*FINAL, timeout_s=6)
    assert [event["type"] for event in events] == ["started", "typing", "token", "token", "done"]
    assert text_of(events) == "all of it"


def test_announcements_that_were_lost_are_read_from_the_stream(web: Web, stage: Stage, text_of: TextOf) -> None:
    """Events that stand in the stream but were never announced come before the next one that is."""
    with web.socket() as client:
        queued = client.chat()
        act = stage.take(queued["run_id"]).begin().say("a ")
        client.until("token")
        for word in ("b ", "c "):
            act.n += 1
            act.text += word
            seq = streams.number(act.claim.token, act.n)
            event = Token(content=word, run_id=queued["run_id"], session_id=queued["session_id"], seq=seq)
            body = json.dumps({"type": "token", "run_id": event.run_id, "seq": seq, "content": word})
            stage.redis.xadd(keys.run_events(event.run_id), {"e": body}, id=f"{seq}-0")
        act.say("d").done()
        assert text_of(client.until("done")) == "b c d"


def test_a_worker_that_lost_its_claim_is_not_heard(web: Web, stage: Stage, text_of: TextOf) -> None:
    """Once another claim has spoken, what the old one still announces reaches nobody."""
    with web.socket() as client:
        queued = client.chat()
        old = stage.take(queued["run_id"]).begin().say("stale ")
        client.until("token")
        stage.ledger.release_owner("chat-simulated")
        new = stage.take(queued["run_id"])
        new.emit(Restarted(reason="its worker died"))
        new.begin().say("fresh ")
        with pytest.raises(streams.Fenced):
            old.say("ghost ")
        new.say("words").done()
        events = client.until("done")
    assert text_of(events) == "fresh words"
    assert events[0]["type"] == "restarted"


def test_stop_by_another_tab_ends_a_waiting_run(web: Web, stage: Stage) -> None:
    """A run that waits ends at once; a worker that gets its hint later finds nothing to do."""
    with web.socket() as first, web.socket() as second:
        queued = first.chat()
        second.send(type="stop", run_id=queued["run_id"])
        second.send(type="ping")
        second.until("pong")
        assert isinstance(streams.read(stage.redis, queued["run_id"])[-1], Stopped), "at once: no tick is waited for"
        assert first.until("stopped")[-1]["message_id"] is None
    assert stage.ledger.claim(queued["run_id"], "late", 5) is None


def test_stop_of_a_running_run_reaches_its_worker(web: Web, stage: Stage) -> None:
    """The ledger has the wish and every worker hears of it at once."""
    with web.socket() as client, stage.redis.pubsub() as pubsub:
        pubsub.subscribe(keys.STOP_CHANNEL)
        pubsub.get_message(timeout=5)
        queued = client.chat()
        act = stage.take(queued["run_id"]).begin().say("so far ")
        client.send(type="stop", run_id=queued["run_id"])
        heard = pubsub.get_message(timeout=5)
        assert heard is not None
        assert heard["data"].decode() == queued["run_id"]
        assert stage.ledger.stops("chat-simulated") == {queued["run_id"]}
        act.emit(act.store_end("cancelled"))
        assert client.until("stopped")[-1]["message_id"]


@THE_WEB_PROCESS
def test_waiting_clients_hear_their_place(web: Web, stage: Stage) -> None:
    """When those before them are taken, a reading (seq 0) tells the new position."""
    with web.socket() as client:
        runs = [client.chat(f"m{n}") for n in range(3)]
        assert [run["position"] for run in runs] == [1, 2, 3]
        stage.take(runs[0]["run_id"])
        ahead, wanted = {}, {runs[1]["run_id"]: 1, runs[2]["run_id"]: 2}
        while {run_id: ahead.get(run_id) for run_id in wanted} != wanted:
            event = client.get(6)
            assert (event["type"], event["seq"]) == ("queued", 0)
            ahead[event["run_id"]] = event["position"]


@THE_WEB_PROCESS
def test_a_slow_reader_gets_every_token_in_the_end(web: Web, stage: Stage, text_of: TextOf) -> None:
    """A client that stops reading while thousands of events come catches up from the stream: all of them, in order."""
    with web.socket(max_queue=1, ping_interval=None) as client:
        queued = client.chat()
        act = stage.take(queued["run_id"]).begin()
        client.connection.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65_536)
        words = [f"{n:04d}{'.' * 1200} " for n in range(2000)]
        for start in range(0, len(words), 100):
            _say_many(stage, act, words[start : start + 100])
        act.done()
        events = client.until("done")
    assert text_of(events) == "".join(words)
    assert re.search(r'coralreef_event_rereads_total\{process="\w+",reason="slow"\}', web.metrics())


def test_a_flushed_broker_in_mid_reply_loses_no_word(web: Web, stage: Stage, text_of: TextOf) -> None:
    """The stream loses its beginning; who comes late gets the whole text from the records."""
    with web.socket() as client:
        queued = client.chat()
        act = stage.take(queued["run_id"]).begin().say("first ")
        seen = client.until("token")
        stage.redis.delete(keys.run_events(queued["run_id"]))
        act.say("second ")
        with web.socket() as late:
            late.send(type="resume", run_id=queued["run_id"], last_seq=0)
            late.until("resumed")
            act.say("third").done()
            assert text_of(seen + client.until("done")) == "first second third"
            heard = late.until("done")
    assert text_of(heard) == "first second third"
    assert [event["type"] for event in heard].count("done") == 1


def _say_many(stage: Stage, act: Any, words: list[str]) -> None:
    events = []
    for word in words:
        act.n += 1
        act.text += word
        seq = streams.number(act.claim.token, act.n)
        job = act.claim.job
        events.append(Token(content=word, run_id=job.id, session_id=job.session_id or "", seq=seq))
    streams.append(stage.redis, events)


def _age(stage: Stage, run_id: str) -> None:
    """Let the run have ended a while ago."""
    import sqlalchemy as sa

    from reef.records.tables import jobs

    with stage.database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == run_id).values(finished_at=time.time() - 60))


def test_one_socket_may_follow_many_runs(web: Web, stage: Stage, text_of: TextOf) -> None:
    """Replies of several conversations arrive interleaved, each in its own order."""
    with web.socket() as client:
        runs = [client.chat(f"m{n}")["run_id"] for n in range(4)]
        acts = [stage.take(run_id).begin() for run_id in runs]
        for n in range(5):
            for act in acts:
                act.say(f"{n} ")
        for act in acts:
            act.done()
        events = _until_all_done(client, len(runs))
    for run_id in runs:
        assert text_of([event for event in events if event["run_id"] == run_id]) == "0 1 2 3 4 "


def _until_all_done(client: Socket, count: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while sum(event["type"] == "done" for event in events) < count:
        events.append(client.get())
    return events
