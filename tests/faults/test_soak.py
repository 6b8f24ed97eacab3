"""A storm of faults for minutes: whatever was accepted is answered exactly once. Behind `make soak`."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest
import redis
from whole_product import SIMULATED_QUEUES, Reef, StartReef

STORM_S = 180.0
SETTLE_S = 120.0
NODE = "chat-simulated"


def faults(reef: Reef) -> dict[str, Callable[[], object]]:
    """What may happen, by name."""

    def client() -> redis.Redis:
        return redis.Redis.from_url(reef.processes.settings.redis_url, socket_timeout=2, socket_connect_timeout=2)

    return {
        "kill worker": lambda: reef.processes.kill(NODE, signal.SIGKILL),
        "kill broker": lambda: reef.processes.kill("broker", signal.SIGKILL),
        "kill web": lambda: reef.processes.kill("web", signal.SIGKILL),
        "kill sweeper": lambda: reef.processes.kill("sweeper", signal.SIGKILL),
        "cut": lambda: client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        "cut readers": lambda: client().execute_command("CLIENT", "KILL", "TYPE", "pubsub"),
        "flush": lambda: client().flushall(),
    }


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_storm_of_faults_loses_and_doubles_nothing(start_reef: StartReef) -> None:
    """Random kills, cuts and flushes every second or two under steady load; the history is checked afterwards."""
    reef = start_reef(SIMULATED_QUEUES.replace("attempts_max: 3", "attempts_max: 50"))
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    storm = faults(reef)
    accepted: list[str] = []
    happened: Counter[str] = Counter()
    until = time.monotonic() + STORM_S
    next_fault = time.monotonic() + 2
    with reef.client() as client:
        while time.monotonic() < until:
            body = {"persona_id": "alice", "message": f"turn {len(accepted)}", "wait": False}
            try:
                answer = client.post("/api/v1/chat", json=body)
            except httpx.TransportError:
                happened["no connection"] += 1
                time.sleep(0.05)
                continue
            happened[str(answer.status_code)] += 1
            if answer.status_code == httpx.codes.ACCEPTED:
                accepted.append(answer.json()["run_id"])
            else:
                time.sleep(0.05)
            if time.monotonic() > next_fault:
                name = chance.choice(list(storm))
                happened[name] += 1
                try:
                    storm[name]()
                except (redis.RedisError, OSError, KeyError, RuntimeError):
                    happened[f"{name} found nobody"] += 1
                next_fault = time.monotonic() + chance.uniform(0.5, 2.5)
    print(dict(happened))
    deadline = time.monotonic() + SETTLE_S
    states: Counter[str] = Counter()
    for run_id in accepted:
        while (run := reef.get(f"/api/v1/runs/{run_id}"))["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, f"seed {seed}: {run}"
            time.sleep(0.2)
        states[run["state"]] += 1
        history = reef.get(f"/api/v1/chat/history/{run['session_id']}")["messages"]
        roles = Counter(message["role"] for message in history)
        assert roles == {"user": 1, "assistant": 1}, f"seed {seed}: {history}"
    assert set(states) == {"done"}, f"seed {seed}: {states}"
    assert len(accepted) > 100
