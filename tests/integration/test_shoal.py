"""Many simulated devices under each strategy: they die at random, and no job is lost, doubled, or late."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from services import RedisServer
from shoal import Shoal

from reef.placement.model import model_route, persona_route

POOLS = """
version: 1
pools:
  chat: {queue: chat, engine: simulated, model: base, streams: 1, limits: {lease_s: 1.5}}
  embed: {queue: embed, engine: simulated, streams: 1, limits: {lease_s: 1.5}}
  index: {queue: index, engine: simulated, streams: 1}
  media: {queue: media, engine: simulated, streams: 1, limits: {lease_s: 1.5}}
allocation:
"""
PLANS = {
    ("dedicated", 8): "{personas: 2, devices_per_persona: 2, services: {embed: 1, media: 1}, reserve: 2}",
    ("dedicated", 48): "{personas: 5, devices_per_persona: 7, services: {embed: 6, media: 3}, reserve: 4}",
    ("dedicated", 96): "{personas: 10, devices_per_persona: 8, services: {embed: 8, media: 4}, reserve: 4}",
    ("dynamic", 8): "{hot: 3, warm: 3, up_wait_s: 0.3, down_idle_s: 5, settle_s: 0.5}",
    ("dynamic", 48): "{hot: 16, warm: 24, up_wait_s: 0.3, down_idle_s: 5, settle_s: 0.5}",
    ("dynamic", 96): "{hot: 32, warm: 48, up_wait_s: 0.3, down_idle_s: 5, settle_s: 0.5}",
    ("pipeline", 8): "{model: net, segments: 3}",
    ("pipeline", 48): "{model: net, segments: 5}",
    ("pipeline", 96): "{model: net, segments: 8}",
}
SPEED = {8: 4.0, 48: 2.0, 96: 1.0}
"""The large one runs in real time: there the three seconds are three seconds."""
BUSY_S = 2.6
DEATHS = {"dedicated": 1 / 3, "dynamic": 1 / 3, "pipeline": 1 / 16}
"""Share of the devices that dies: in a pipeline each takes seven others with it until it is repaired."""
MOVE_S = 3.0
PERSONAS = [f"p{n}" for n in range(12)]

Start = Callable[..., Shoal]


@pytest.fixture
def start(tmp_path: Path, own_redis: RedisServer, migrated_file: Path) -> Iterator[Start]:
    """Starts shoals."""
    with ExitStack() as stack:

        def begin(strategy: str, size: int, **options: Any) -> Shoal:
            shutil.copyfile(migrated_file, tmp_path / "reef.db")
            text = POOLS + f"  strategy: {strategy}\n  devices: ['simulated:0-{size - 1}']\n"
            text += f"  {strategy}: {PLANS[strategy, size]}\n"
            shoal = Shoal(tmp_path, own_redis.url, text, **({"speed": SPEED[size]} | options))
            stack.callback(shoal.close)
            shoal.add_personas(PERSONAS)
            shoal.wait_placed()
            return shoal

        yield begin


def next_job(strategy: str, chance: random.Random) -> tuple[str, str | None]:
    """What is asked next: a pool and a route."""
    if strategy == "pipeline":
        return "media", None
    if strategy == "dedicated":
        if chance.random() < 0.15:
            return chance.choice(["embed", "media"]), None
        return "chat", persona_route(chance.choice(PERSONAS))
    if chance.random() < 0.2:
        return "embed", None
    return "chat", chance.choice([None, None, model_route("second"), model_route("third")])


@pytest.mark.parametrize("size", [8, 48, 96])
@pytest.mark.parametrize("strategy", ["dedicated", "dynamic", "pipeline"])
def test_devices_die_and_return_at_random(start: Start, strategy: str, size: int) -> None:
    """Devices die at any point of a job, most without a word: everything accepted is done exactly once, and what a
    dead device held is held by another within three seconds."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    shoal = start(strategy, size, seed=seed)
    chance, speed = random.Random(seed), shoal.speed
    records, killed = [], 0
    began = time.monotonic()
    busy_s, deaths = BUSY_S / speed, math.ceil(size * DEATHS[strategy])
    next_death = 0.3 / speed
    while (passed := time.monotonic() - began) < busy_s:
        records.append(shoal.submit(*next_job(strategy, chance)))
        if passed > next_death and killed < deaths:
            alive = [node for node in shoal.nodes if not shoal.devices[node].doomed.is_set()]
            busy = [node for node in alive if shoal.devices[node].running]
            killed += 1
            shoal.kill(chance.choice(busy or alive), seen=chance.random() < 0.2)
            next_death += busy_s * 0.6 / deaths
        dead = [node for node in shoal.nodes if not shoal.is_alive(node)]
        if dead and chance.random() < 0.05:
            shoal.start(chance.choice(dead))
        time.sleep(0.01)
    shoal.wait_done(records)
    shoal.check(records)
    moves = shoal.moves_s()
    print(f"{len(records)} jobs, {len(shoal.deaths)} deaths, moves up to {max(moves, default=0):.2f} s")
    assert max(moves, default=0.0) <= MOVE_S / speed, moves
    assert killed == deaths
