"""A worker changes its model while it answers: nobody fails, nobody waits, and the report says what is going on."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from chat_client import ChatClient, Run, tokens_at_least
from placing import Operator, operator_of
from whole_product import SIMULATED_QUEUES, Reef, running_reef

from reef import keys
from reef.contracts.jobs import CompletionJob
from reef.ledger import NewJob
from reef.placement.model import model_route

NODE = "chat-simulated"
OLD = "simulated:token_ms=10"
NEW = "simulated:token_ms=10,load_ms=400"
LOAD_S = 2.5
SLOW = f"simulated:token_ms=10,load_ms={LOAD_S * 1000:.0f}"
QUEUES = SIMULATED_QUEUES.replace("model: simulated", f"model: '{OLD}'")
LONG = "Tell me everything about the sea, its fish and its storms. " * 3
"""Answered for 1.3 s."""
LONGER, LONGEST = 2 * LONG, 4 * LONG
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A product of this file's own."""
    with running_reef(tmp_path_factory.mktemp("swap"), QUEUES) as reef:
        yield reef


@pytest.fixture
def operator(swapping: Reef) -> Iterator[Operator]:
    """Somebody who decides; before, the device serves what queues.yaml says."""
    with operator_of(swapping) as one:
        place = one.decide(NODE, pool="chat", reason=f"begin {time.time()}")
        one.carried_out(place)
        yield one


def models(run: Run) -> list[str]:
    """Which models began to answer."""
    return [event["model"] for event in run.events if event["type"] == "started"]


def gaps(run: Run) -> list[float]:
    """Seconds between the tokens of a reply, and between its acceptance and the first."""
    times = [at for event, at in zip(run.events, run.times, strict=True) if event["type"] in ("queued", "token")]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@contextmanager
def notices(operator: Operator) -> Iterator[redis.client.PubSub]:
    """What is announced of the reef from now on."""
    with operator.redis.pubsub() as heard:
        heard.subscribe(keys.SYSTEM_CHANNEL)
        assert heard.get_message(timeout=PATIENCE_S) is not None, "the broker does not confirm"
        yield heard


def told_until(heard: redis.client.PubSub, model: str, state: str) -> list[dict[str, Any]]:
    """Notices of this state before the first one that names the model."""
    told: list[dict[str, Any]] = []
    while True:
        message = heard.get_message(timeout=PATIENCE_S)
        assert message is not None, f"nothing is told of {model}"
        notice: dict[str, Any] = json.loads(message["data"])
        if notice.get("state") != state:
            continue
        if notice["name"] == model:
            return told
        told.append(notice)


def job(route: str | None = None) -> NewJob:
    """A completion that some device should answer."""
    asked = CompletionJob(messages=[{"role": "user", "content": "hello"}], tokens_max=40)
    return NewJob(job=asked, deadline_s=60, attempts_max=3, route=route)


def test_streams_flow_through_a_swap(operator: Operator, swapping: Reef) -> None:
    """Running replies end on the old model, those that come meanwhile begin at once, later ones get the new model."""
    with ChatClient(swapping.url) as chat:
        before = [chat.say(f"{n} {LONGER}") for n in range(3)]
        for run in before:
            chat.follow(run, tokens_at_least(3))
        place = operator.decide(NODE, pool="chat", model=SLOW)
        loading = operator.wait(NODE, lambda report: report.loading == SLOW and report.progress > 0)
        assert (loading.state, loading.model) == ("ready", OLD)
        meanwhile = [chat.say(f"{n} {LONGER}", persona="bob") for n in range(2)]
        for run in meanwhile:
            chat.follow(run, tokens_at_least(20))
        still = operator.report(NODE)
        assert still is not None
        assert still.loading == SLOW, "they had to wait for it"
        assert operator.wait(NODE, lambda report: report.tokens_per_s > 0).tokens_per_s < 5 * 100 * 2
        report = operator.carried_out(place)
        after = chat.say("hello", persona="carol")
        runs = [*before, *meanwhile, after]
        for run in runs:
            chat.finish(run)
    assert [run.final["type"] for run in runs if run.final] == ["done"] * 6
    assert [models(run) for run in runs] == [[OLD]] * 5 + [[SLOW]]
    assert max(gap for run in runs for gap in gaps(run)) < LOAD_S, "a pause"
    assert (report.model, report.resident, report.loading, report.note) == (SLOW, (SLOW,), "", "")


def test_a_resident_model_takes_over_without_being_loaded(operator: Operator) -> None:
    """Swapping to a model in memory, and back, takes a look and no load."""
    slow = "simulated:token_ms=10,load_ms=100"
    report = operator.carried_out(operator.decide(NODE, pool="chat", resident=(slow,)))
    assert (report.model, report.resident) == (OLD, (OLD, slow))
    with notices(operator) as heard:
        report = operator.carried_out(operator.decide(NODE, pool="chat", model=slow, resident=(OLD,)))
        assert (report.model, report.resident) == (slow, (slow, OLD))
        report = operator.carried_out(operator.decide(NODE, pool="chat", model=OLD, resident=(slow,)))
        assert report.model == OLD
        operator.carried_out(operator.decide(NODE, pool="chat", model=NEW))
        assert told_until(heard, NEW, "LOADING") == [], "something was loaded"


def test_a_model_that_does_not_load_touches_nothing(operator: Operator, swapping: Reef) -> None:
    """The reason stands in the report and goes out as an event; what serves goes on, the next decision counts."""
    model = "simulated:colour=3"
    with notices(operator) as heard, ChatClient(swapping.url) as chat:
        run = chat.follow(chat.say(LONG), tokens_at_least(3))
        place = operator.decide(NODE, pool="chat", model=model)
        report = operator.wait(NODE, lambda one: model in one.note and not one.loading)
        assert (report.state, report.model) == ("ready", OLD)
        assert report.place_version < place.version
        assert "understands" in report.last_fault
        assert report.last_fault_at > time.time() - 20
        chat.finish(run)
        again = chat.finish(chat.say("hello", persona="bob"))
        told_until(heard, model, "FAILED")
    assert models(run) == models(again) == [OLD]
    assert run.types.count("restarted") == 0
    assert operator.carried_out(operator.decide(NODE, pool="chat", model=NEW)).model == NEW


def test_where_memory_has_no_room_the_running_jobs_end_first(operator: Operator, swapping: Reef) -> None:
    """The only swap with a pause: nothing is lost, what waited is answered by the new model, the report says why."""
    large = "simulated:memory_mb=50000000"
    with ChatClient(swapping.url) as chat:
        running = chat.follow(chat.say(LONGEST), tokens_at_least(3))
        place = operator.decide(NODE, pool="chat", model=large)
        operator.wait(NODE, lambda one: "running jobs end first" in one.note)
        waiting = chat.say("hello", persona="bob")
        chat.send({"type": "stop", "run_id": running.run_id})
        chat.finish(running)
        chat.finish(waiting)
        assert models(running) == [OLD]
        assert models(waiting) == [large]
    report = operator.carried_out(place)
    assert (report.state, report.note) == ("ready", "")
    operator.carried_out(operator.decide(NODE, pool="chat"))
    back = operator.decide(NODE, pool="chat", resident=(large,))
    report = operator.wait(NODE, lambda one: one.place_version == back.version)
    assert (report.model, report.resident) == (OLD, (OLD,))
    assert "no room in memory" in report.note


def test_jobs_with_a_route_get_their_model_and_a_closed_route_loses_none(operator: Operator) -> None:
    """A resident model answers what asks for it; hints of a route that is taken away go on to the pool's queue."""
    route = model_route(NEW)
    place = operator.decide(NODE, pool="chat", resident=(NEW,), routes=(route,))
    report = operator.carried_out(place)
    assert (report.routes, report.general, report.model) == ((route,), True, OLD)
    queue = keys.route_queue("chat", route)
    asked = [operator.submit(job(route), queue).id for _ in range(3)]
    unasked = [operator.submit(job(), "chat").id for _ in range(3)]
    ended = operator.ended([*asked, *unasked])
    assert {record.state for record in ended.values()} == {"done"}
    report = operator.carried_out(operator.decide(NODE, pool="chat"))
    assert report.routes == ()
    late = operator.submit(job(route), queue)
    began = time.monotonic()
    assert operator.ended([late.id])[late.id].state == "done"
    assert time.monotonic() - began < 4, "the ledger had to notice"
