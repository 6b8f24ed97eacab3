"""Workers and the broker die while a device is on its way to another model or pool: no job is lost or runs twice."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from chat_client import ChatClient, tokens_at_least
from placing import PATIENCE_S, Operator, operator_of
from whole_product import SIMULATED_QUEUES, Reef, StartReef

from reef.contracts.jobs import CompletionJob, EmbedTextsJob
from reef.ledger import NewJob
from workers import broker

NODE = "chat-simulated"
SLOW = "simulated:token_ms=10,load_ms=3000"
"""Whoever looks whether it is being loaded may be held up for two seconds."""
LONG = "Tell me everything about the sea, its fish and its storms. " * 2
GIVEN_OUT = (
    SIMULATED_QUEUES.replace("streams: 8", "streams: 2").replace("model: simulated", 'model: "simulated:token_ms=5"')
    + """
  embed:
    queue: embed
    devices: ["simulated:9@elsewhere"]
    engine: simulated
    streams: 3
    limits: {deadline_s: 120, attempts_max: 3, lease_s: 5, hang_s: 10, drain_s: 2}
allocation:
  strategy: dynamic
  devices: ["simulated:1"]
"""
)
GIVEN = "simulated-1"


@pytest.fixture
def operator(start_reef: StartReef) -> Iterator[Operator]:
    """Somebody who decides about a product of this test's own."""
    with operator_of(start_reef()) as one:
        yield one


def test_a_worker_killed_in_mid_swap_comes_back_with_the_model_it_was_to_have(operator: Operator) -> None:
    """The decision outlives the process; what was running is answered again, once."""
    reef = operator.reef
    with ChatClient(reef.url) as chat:
        run = chat.follow(chat.say(LONG * 2), tokens_at_least(3))
        place = operator.decide(NODE, pool="chat", model=SLOW)
        operator.wait(NODE, lambda report: report.loading == SLOW and report.progress >= 0.1)
        pid = reef.kill(NODE)
        report = operator.wait(NODE, lambda one: one.pid != pid and one.state == "ready")
        assert report.model == SLOW, "it was not loaded first, but the pool's own"
        operator.carried_out(place)
        chat.finish(run)
    assert run.final is not None
    assert run.final["type"] == "done"
    assert [event["attempt"] for event in run.events if event["type"] == "started"] == [1, 2]
    assert [event["model"] for event in run.events if event["type"] == "started"] == ["simulated", SLOW]


def test_a_worker_that_cannot_load_its_place_serves_what_queues_yaml_says(operator: Operator) -> None:
    """At the start, too: the pool's own model serves and the report says why it is not the other."""
    bad = "simulated:colour=3"
    operator.decide(NODE, pool="chat", model=bad)
    operator.wait(NODE, lambda report: bad in report.note)
    pid = operator.reef.kill(NODE)
    report = operator.wait(NODE, lambda one: one.pid != pid and one.state == "ready" and bool(one.note))
    assert report.model == "simulated"
    assert bad in report.note
    assert "understands" in report.last_fault
    assert report.place_version == 0
    with ChatClient(operator.reef.url) as chat:
        run = chat.finish(chat.say("hello"))
    assert run.final is not None
    assert run.final["type"] == "done"


def test_a_broker_that_restarts_in_mid_swap_holds_nothing_up(operator: Operator) -> None:
    """Streams and the load go on; the decision that was announced meanwhile, to nobody, is found in the database."""
    reef = operator.reef
    with ChatClient(reef.url) as chat:
        runs = [chat.say(f"{n} {LONG}") for n in range(3)]
        for run in runs:
            chat.follow(run, tokens_at_least(3))
        operator.decide(NODE, pool="chat", model=SLOW)
        operator.wait(NODE, lambda report: report.loading == SLOW)
        killed = reef.kill("broker")
        place = operator.decide(NODE, tell=False, pool="chat", model=SLOW, routes=("persona/carol",))
        reef.replaced("broker", killed)
        deadline = time.monotonic() + PATIENCE_S
        while not broker.answers(reef.settings.redis_url):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        report = operator.carried_out(place)
        assert (report.model, report.routes) == (SLOW, ("persona/carol",))
        for run in runs:
            chat.finish(run, reconnect=True)
        after = chat.finish(chat.say("hello", persona="bob"))
    assert [run.final["type"] for run in [*runs, after] if run.final] == ["done"] * 4
    assert set(operator.attempts()) == {"done"}
    assert operator.attempts()["done"] == [1, 1, 1, 1]


def chat_job(number: int) -> NewJob:
    """A completion."""
    asked = CompletionJob(messages=[{"role": "user", "content": f"{number} hello"}], tokens_max=20)
    return NewJob(job=asked, deadline_s=60, attempts_max=3)


def embed_job(number: int) -> NewJob:
    """Some texts to be embedded."""
    return NewJob(job=EmbedTextsJob(texts=[f"text {number}"] * 3), deadline_s=60, attempts_max=3)


def test_a_device_moves_between_pools_with_jobs_in_the_queues(start_reef: StartReef) -> None:
    """Chat, embed, chat, nothing: every job of both pools is done once, whatever the device had already taken."""
    reef: Reef = start_reef(GIVEN_OUT)
    with operator_of(reef) as operator:
        operator.wait(GIVEN, lambda one: one.state == "ready")
        ids = []
        for turn, pool in enumerate(["chat", "embed", "chat"]):
            place = operator.decide(GIVEN, pool=pool, tier="hot")
            for number in range(6):
                ids.append(operator.submit(chat_job(number), "chat").id)
                ids.append(operator.submit(chat_job(number), f"chat.{GIVEN}").id)
                ids.append(operator.submit(embed_job(number), "embed").id)
            report = operator.carried_out(place)
            assert (report.pool, report.streams) == (pool, {"chat": 2, "embed": 3}[pool]), turn
            if turn == 0:
                operator.ended(ids[1:2])
        operator.carried_out(operator.decide(GIVEN, pool="embed"))
        ended = operator.ended(ids, timeout_s=40)
        report = operator.carried_out(operator.decide(GIVEN, pool=""))
        assert (report.pool, report.model, report.state) == ("", "", "ready")
        assert {record.state for record in ended.values()} == {"done"}
        assert {record.owner for record in ended.values() if "embed" in record.task} == {GIVEN}
        assert {record.owner for record in ended.values() if "chat" in record.task} == {GIVEN, NODE}
        assert {record.token for record in ended.values()} == {1}, "a job ran twice"
