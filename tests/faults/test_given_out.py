"""The real product with devices that a strategy gives out: workers follow their places, and fall silent."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from chat_client import ChatClient, Run
from placing import operator_of
from whole_product import Reef, StartReef

QUEUES = """
version: 1
pools:
  chat:
    queue: chat
    engine: simulated
    model: simulated
    streams: 4
    limits: {waiting_max: 1000, deadline_s: 120, attempts_max: 50, lease_s: 1.5, hang_s: 10, tokens_max: 64, drain_s: 2}
allocation:
  strategy: dedicated
  devices: ["simulated:0-7"]
  dedicated: {personas: [alice, bob, carol], devices_per_persona: 2, reserve: 2}
"""
MOVE_S = 3.0
NAP_S = 0.02


def places(reef: Reef) -> dict[str, Any]:
    """What each device should serve, by node."""
    with operator_of(reef) as operator:
        return dict(operator.places.all())


def device_of(run: Run) -> str:
    """Node of the worker that began to answer last."""
    started = [event["device"] for event in run.events if event["type"] == "started"]
    return str(started[-1]).replace(":", "-")


def test_a_persona_whose_devices_fall_silent_is_answered_by_the_reserve(start_reef: StartReef) -> None:
    """Eight worker processes: alice's two are frozen, the reserve has her route within three seconds and answers, and
    when they thaw they answer again."""
    reef = start_reef(QUEUES)
    decided = places(reef)
    mine = [node for node, place in decided.items() if "persona/alice" in place.routes]
    reserve = [node for node, place in decided.items() if place.tier == "reserve"]
    assert (len(mine), len(reserve)) == (2, 2)
    with operator_of(reef) as operator, ChatClient(reef.url) as chat:
        for node in decided:
            operator.wait(node, lambda said: said.state == "ready" and said.place_version > 0)
        assert device_of(chat.finish(chat.say("hello"))) in mine
        pids = [reef.freeze(node) for node in mine]
        frozen_at, held_up_s = time.monotonic(), 0.0
        try:
            while not all("persona/alice" in operator.places.all()[node].routes for node in reserve):
                assert time.monotonic() - frozen_at - held_up_s < MOVE_S, operator.places.all()
                # a machine that wakes nobody wakes no sweeper either: that time is not the product's
                began = time.monotonic()
                time.sleep(NAP_S)
                held_up_s += time.monotonic() - began - NAP_S
            run = chat.finish(chat.say("are you there?"))
            assert device_of(run) in reserve
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + 30
        while any(operator.places.all()[node].routes for node in reserve):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for node in reserve:
            operator.wait(node, lambda said: not said.routes)
        assert device_of(chat.finish(chat.say("and now?"))) in mine


SOAK_S = 90.0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["dedicated", "dynamic"])
def test_ninety_six_worker_processes_die_at_random(start_reef: StartReef, strategy: str) -> None:
    """Real processes, killed, frozen and thawed for a minute and a half: every message has one whole reply."""
    plan = {
        "dedicated": "dedicated: {personas: 4, devices_per_persona: 20, reserve: 16}",
        "dynamic": "dynamic: {hot: 32, warm: 60, bulk_pools: []}",
    }[strategy]
    head = QUEUES[: QUEUES.index("allocation:")]
    queues = f'{head}allocation:\n  strategy: {strategy}\n  devices: ["simulated:0-95"]\n  {plan}\n'
    reef = start_reef(queues, ready_s=400)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    nodes = [f"simulated-{n}" for n in range(96)]
    frozen: list[int] = []

    def thaw() -> None:
        while frozen:
            with contextlib.suppress(ProcessLookupError):  # it was killed while it was frozen
                os.kill(frozen.pop(), signal.SIGCONT)

    def freeze() -> None:
        frozen.append(reef.processes.pids()[chance.choice(nodes)])
        os.kill(frozen[-1], signal.SIGSTOP)

    storm: list[Callable[[], object]] = [
        lambda: reef.processes.kill(chance.choice(nodes), signal.SIGKILL),
        freeze,
        freeze,
        thaw,
        lambda: reef.processes.kill("sweeper", signal.SIGKILL),
    ]
    accepted: list[str] = []
    until = time.monotonic() + SOAK_S
    next_fault = time.monotonic() + 1
    with reef.client() as client:
        while time.monotonic() < until:
            persona = chance.choice(["alice", "bob", "carol", "dave"])
            body = {"persona_id": persona, "message": f"turn {len(accepted)}", "wait": False}
            answer = client.post("/api/v1/chat", json=body)
            if answer.status_code == httpx.codes.ACCEPTED:
                accepted.append(answer.json()["run_id"])
            if time.monotonic() > next_fault:
                try:
                    chance.choice(storm)()
                except (KeyError, ProcessLookupError, RuntimeError):
                    print("nobody there to be hurt")
                next_fault = time.monotonic() + chance.uniform(0.3, 1.5)
            time.sleep(0.05)
    thaw()
    deadline = time.monotonic() + 180
    for run_id in accepted:
        while (run := reef.get(f"/api/v1/runs/{run_id}"))["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, f"seed {seed}: {run}"
            time.sleep(0.2)
        assert run["state"] == "done", f"seed {seed}: {run}"
        history = reef.get(f"/api/v1/chat/history/{run['session_id']}")["messages"]
        assert Counter(message["role"] for message in history) == {"user": 1, "assistant": 1}, f"seed {seed}"
