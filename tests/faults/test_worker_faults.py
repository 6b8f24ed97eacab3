"""Workers die in every way there is: each accepted message is answered once, and the client is told what happened."""

from __future__ import annotations

import os
import signal
import time

import pytest
from chat_client import ChatClient, Run, tokens_at_least
from whole_product import SIMULATED_QUEUES, Reef, StartReef

NODE = "chat-simulated"
TEXT = "Tell me everything about the sea, its fish and its storms. " * 3
"""Answered for 2.8 seconds."""
LONG = TEXT * 2
"""Answered for 5 seconds: a fault comes in the middle of it, though this test is held up for two."""


def message_of(reef: Reef, run: Run) -> dict[str, object]:
    """The reply as it was stored."""
    assert run.final is not None
    assert run.final["type"] == "done", run.final
    message: dict[str, object] = reef.get(f"/api/v1/messages/{run.final['message_id']}")
    return message


def replies(reef: Reef, run: Run) -> list[dict[str, object]]:
    """The assistant's messages in the run's session."""
    history = reef.get(f"/api/v1/chat/history/{run.session_id}")
    return [message for message in history["messages"] if message["role"] == "assistant"]


def device_of(run: Run) -> str:
    """Which began to answer last."""
    return [str(event["device"]) for event in run.events if event["type"] == "started"][-1]


def test_a_worker_killed_in_mid_reply_is_replaced(start_reef: StartReef) -> None:
    """kill -9 at token N: the same run answers again, the client drops the partial text, one whole reply is stored."""
    reef = start_reef()
    with ChatClient(reef.url) as chat:
        run = chat.follow(chat.say(LONG), tokens_at_least(5))
        reef.kill(NODE)
        chat.finish(run)
    assert "restarted" in run.types
    assert [event["attempt"] for event in run.events if event["type"] == "started"] == [1, 2]
    assert message_of(reef, run)["content"] == run.text
    assert len(replies(reef, run)) == 1


def test_all_streams_of_a_killed_worker_go_on(start_reef: StartReef) -> None:
    """Eight conversations on one device survive its death together."""
    reef = start_reef()
    with ChatClient(reef.url) as chat:
        runs = [chat.say(f"{n} {TEXT}") for n in range(8)]
        for run in runs:
            chat.follow(run, tokens_at_least(3))
        reef.kill(NODE)
        for run in runs:
            chat.finish(run)
    for run in runs:
        assert message_of(reef, run)["content"] == run.text


def test_a_worker_killed_between_queue_and_claim_loses_nothing(start_reef: StartReef) -> None:
    """A message that a stopped worker has popped but not claimed is sent again after its death."""
    reef = start_reef()
    reef.freeze(NODE)
    with ChatClient(reef.url) as chat:
        runs = [chat.say(f"{n} hello") for n in range(4)]
        reef.kill(NODE)
        for run in runs:
            chat.finish(run)
    assert all(message_of(reef, run)["content"] for run in runs)


def test_a_frozen_worker_loses_its_run_and_can_write_nothing_after(start_reef: StartReef) -> None:
    """SIGSTOP past the lease with a second device: the other answers; the thawed one is fenced off."""
    two = SIMULATED_QUEUES.replace("[simulated]", "[simulated:0, simulated:1]").replace("lease_s: 5", "lease_s: 1")
    two = two.replace("attempts_max: 3", "attempts_max: 9")  # a busy machine may miss such a lease by itself
    reef = start_reef(two)
    with ChatClient(reef.url) as chat:
        run = chat.follow(chat.say(LONG), tokens_at_least(5))
        frozen = device_of(run)
        pid = reef.freeze(f"chat-{frozen.replace(':', '-')}")
        try:
            chat.follow(run, lambda one: device_of(one) != frozen and tokens_at_least(15)(one))
        finally:
            os.kill(pid, signal.SIGCONT)
        chat.finish(run)
    assert "restarted" in run.types
    assert message_of(reef, run)["content"] == run.text
    assert len(replies(reef, run)) == 1


def test_a_message_that_kills_its_worker_is_buried_and_others_are_served(start_reef: StartReef) -> None:
    """After three starts the poison message is on the dead list with its reason; a retry is a person's decision."""
    reef = start_reef()
    with ChatClient(reef.url) as chat:
        poison = chat.say("!crash")
        other = chat.say("hello", persona="bob")
        chat.finish(other)
        chat.finish(poison)
        assert poison.final is not None
        assert poison.final["type"] == "error"
        assert message_of(reef, other)["content"]
        after = chat.finish(chat.say("still there?", persona="carol"))
        assert message_of(reef, after)["content"]
    dead = reef.get("/api/v1/system/dead")["jobs"]
    assert [job["id"] for job in dead] == [poison.run_id]
    failed = replies(reef, poison)
    assert [message["state"] for message in failed] == ["failed"]


def test_a_hung_device_call_ends_its_process_and_the_run_goes_on(start_reef: StartReef) -> None:
    """A native call that holds the interpreter lock cannot stop the watchdog: the process ends with a stack trace."""
    reef = start_reef(SIMULATED_QUEUES.replace("hang_s: 10", "hang_s: 1"))
    with ChatClient(reef.url) as chat:
        before = reef.processes.pids()[NODE]
        hung = chat.say("!hang 30")
        chat.follow(hung, lambda run: "restarted" in run.types, 40)
        assert reef.processes.pids().get(NODE) != before, "the process that hung is still there"
        chat.send({"type": "stop", "run_id": hung.run_id})
        chat.finish(hung)
    traces = list(reef.data_dir.glob(f"logs/{NODE}.hang"))
    assert any("generate" in trace.read_text() or "simulated" in trace.read_text() for trace in traces), traces


def test_ctrl_c_hands_back_what_does_not_finish_and_the_next_start_answers_it(start_reef: StartReef) -> None:
    """Stopping the product loses no run: the next start of the same data directory answers it."""
    queues = SIMULATED_QUEUES.replace("drain_s: 3", "drain_s: 0.2")
    reef = start_reef(queues)
    with ChatClient(reef.url) as chat:
        run = chat.follow(chat.say(TEXT), tokens_at_least(3))
    reef.processes.stop()
    again = start_reef(queues, data_dir=reef.data_dir)
    deadline = time.monotonic() + 30
    while again.get(f"/api/v1/runs/{run.run_id}")["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(replies(again, run)) == 1


@pytest.mark.parametrize("times", [3])
def test_a_worker_that_is_killed_again_and_again_costs_no_run_it_did_not_touch(
    start_reef: StartReef, times: int
) -> None:
    """Runs queued behind a dying worker are all answered."""
    reef = start_reef(
        SIMULATED_QUEUES.replace("streams: 8", "streams: 1").replace("attempts_max: 3", "attempts_max: 9")
    )
    with ChatClient(reef.url) as chat:
        runs = [chat.say(f"{n} hello there") for n in range(5)]
        for run in runs[:times]:
            chat.follow(run, lambda one: "token" in one.types or one.final is not None)
            reef.kill(NODE)
        for run in runs:
            chat.finish(run)
    assert all(len(replies(reef, run)) == 1 for run in runs)
