"""The simulation agrees with queueing theory where theory has an answer, and keeps its books everywhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_parts import PLAIN, layout, load

from reef.planning.curves import Batching, Staged
from reef.planning.devices import parse_devices
from reef.planning.models import SMOLLM2, SPECIFICATION
from reef.planning.simulate import Run, run
from reef.planning.strategies import STRATEGIES, Impossible, lay_out
from reef.planning.workload import Load


def erlang_wait_s(servers: int, rate: float, service_s: float) -> float:
    """Mean wait in M/M/c (Erlang C)."""
    offered = rate * service_s
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    waits = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    return waits * service_s / (servers - offered)


def mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.7), (4, 0.8), (8, 0.8)])
def test_waiting_is_erlangs(servers: int, busy: float) -> None:
    """Poisson arrivals, exponential replies, c devices of one stream: M/M/c, in waiting and in use."""
    service_s = 1000 * PLAIN.step_fixed_s
    rate = busy * servers / service_s
    asked = load(turns_per_s=rate, prompt=0, reply=1000, lengths="exponential")
    runs = [run(layout(*[PLAIN] * servers), asked, servers, seed, span_s=20_000 / rate) for seed in range(2)]
    assert sum(mean(one.wait_s) for one in runs) / 2 == pytest.approx(
        erlang_wait_s(servers, rate, service_s), rel=0.15, abs=0.02
    )
    assert sum(one.busy_share for one in runs) / 2 == pytest.approx(busy, rel=0.04)


@pytest.mark.parametrize("conversations", [1, 3, 8, 20])
def test_a_pipeline_gives_what_its_slowest_stage_gives(conversations: int) -> None:
    """Eight equal stages of 5 ms: n conversations get n passes of 40 ms, and never more than one pass each 5 ms."""
    curve = Staged(pass_s=0.040, stages=8, streams=conversations)
    asked = load(conversations=conversations, think_s=0.0, prompt=0, reply=100, lengths="fixed")
    one = run(layout(curve), asked, 8, 1, span_s=300)
    assert one.tokens / one.span_s == pytest.approx(min(conversations / 0.040, 1 / 0.005), rel=0.02)


def test_one_long_stage_holds_up_all() -> None:
    """Cut after a fifth: the pass is as long as before, but all together get one pass for each of its longest stage."""
    curve = Staged(pass_s=0.010, stages=2, slowest_s=0.008, streams=4)
    asked = load(conversations=4, think_s=0.0, prompt=0, reply=100, lengths="fixed")
    one = run(layout(curve), asked, 2, 1, span_s=300)
    assert one.tokens / one.span_s == pytest.approx(1 / 0.008, rel=0.02)
    assert one.busy_share == pytest.approx(0.010 / 0.008 / 2, rel=0.02)


@pytest.mark.parametrize("conversations", [1, 4, 8])
def test_a_batching_device_follows_its_curve(conversations: int) -> None:
    """Conversations that never pause get their share of a step, less the time of reading prompts."""
    curve = Batching(step_fixed_s=0.009, step_stream_s=0.001, prompt_fixed_s=0.02, streams=8)
    asked = load(conversations=conversations, think_s=0.0, prompt=50, reply=100, lengths="fixed")
    one = run(layout(curve), asked, 1, 1, span_s=300)
    cycle_s = 99 * curve.step_s(conversations) + 0.02
    # reading stops the others, at worst each prompt alone
    most, least = 100 * conversations / cycle_s, 100 * conversations / (cycle_s + (conversations - 1) * 0.02 + 0.02)
    assert least <= one.tokens / one.span_s <= most


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_run(strategy: str) -> None:
    """A plan can be printed again."""
    made = lay_out(strategy, SMOLLM2, parse_devices("edgetpu:48"), Load())  # type: ignore[arg-type]
    first, again, other = (run(made, Load(), 48, seed, span_s=120) for seed in (3, 3, 4))
    assert first == again
    assert first != other


LOADS = st.builds(
    Load,
    conversations=st.integers(1, 60),
    turns_per_s=st.none() | st.floats(0.1, 20),
    think_s=st.floats(0, 5),
    burst=st.integers(1, 30),
    prompt=st.floats(0, 500),
    reply=st.floats(1, 200),
    lengths=st.sampled_from(["fixed", "exponential", "lognormal"]),
    personas=st.integers(1, 12),
    models=st.integers(1, 4),
    waiting_max=st.integers(1, 20),
    device_mtbf_h=st.none() | st.floats(0.05, 2),
    repair_s=st.floats(1, 100),
)


@settings(max_examples=40, deadline=None)
@given(LOADS, st.sampled_from(STRATEGIES), st.sampled_from([8, 48, 96]), st.integers(0, 5))
def test_no_turn_is_lost_or_doubled(asked: Load, strategy: str, devices: int, seed: int) -> None:
    """Whatever fails, moves or is refused: every turn is completed, refused, waiting or running, once."""
    try:
        made = lay_out(strategy, SMOLLM2, parse_devices(f"edgetpu:{devices}"), asked)  # type: ignore[arg-type]
    except Impossible:
        return
    one = run(made, asked, devices, seed, span_s=30)
    assert one.asked == one.completed + one.refused + one.waiting + one.running
    assert one.waiting <= asked.waiting_max + sum(unit.curve.streams for unit in made.units)
    assert 0 <= one.busy_share <= 1 + 1e-9
    assert one.tokens >= 0
    assert all(wait >= -1e-9 for wait in (*one.wait_s, *one.ttft_s))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", [SMOLLM2, SPECIFICATION[2]], ids=lambda model: model.name)
def test_more_devices_never_give_less(strategy: str, model: object) -> None:
    """In expectation: the same people on 24, 48 and 96 devices are served faster or as fast, within 2 %."""
    asked = Load(conversations=40, think_s=1.0, device_mtbf_h=None)
    rates = []
    for devices in (24, 48, 96):
        made = lay_out(strategy, model, parse_devices(f"edgetpu:{devices}"), asked)  # type: ignore[arg-type]
        runs = [run(made, asked, devices, seed) for seed in range(3)]
        rates.append(sum(one.tokens / one.span_s for one in runs) / 3)
    assert rates[1] >= 0.98 * rates[0]
    assert rates[2] >= 0.98 * rates[1]


def with_failures(spares: int) -> Run:
    asked = load(conversations=4, think_s=0.5, reply=100, device_mtbf_h=0.2, repair_s=600.0)
    return run(layout(PLAIN, PLAIN, spares=spares), asked, 2, 1, span_s=20_000)


def test_a_reserve_takes_over_from_failed_devices() -> None:
    """With devices in reserve failures cost seconds; without, the repair."""
    alone, reserved = with_failures(0), with_failures(2)
    assert alone.failures > 5
    assert reserved.failures > 5
    assert reserved.tokens > 1.3 * alone.tokens
    assert reserved.completed > alone.completed


def test_a_model_moves_to_where_turns_wait() -> None:
    """A unit that may move serves the model nobody holds; one that may not leaves its turns waiting."""
    asked = load(conversations=6, think_s=1.0, personas=2, models=2, reply=50)
    moving = run(layout(PLAIN, PLAIN, routes=(0, 0), movable=True), asked, 2, 5, span_s=600)
    fixed = run(layout(PLAIN, PLAIN, routes=(0, 0)), asked, 2, 5, span_s=600)
    assert moving.swaps > 0
    assert fixed.swaps == 0
    assert fixed.waiting > 0
    assert max(moving.wait_s) < 60


def test_bursts_wait_longer_than_single_turns() -> None:
    """The same turns a second, sixteen at a time: more of them wait, and a full queue refuses."""
    single = run(layout(*[PLAIN] * 4), load(turns_per_s=2.0, prompt=0, reply=100), 4, 1)
    burst = run(layout(*[PLAIN] * 4), load(turns_per_s=2.0, burst=16, prompt=0, reply=100), 4, 1)
    assert mean(burst.wait_s) > 2 * mean(single.wait_s)
    assert (single.refused, burst.refused) == (0, 0)
    assert run(layout(*[PLAIN] * 4), load(turns_per_s=2.0, burst=16, waiting_max=4, reply=100), 4, 1).refused > 0


def test_the_next_turn_goes_to_the_device_that_knows_the_conversation() -> None:
    """Every reply has the pace of one device, though the other one has been free for longer each time."""
    asked = load(conversations=1, think_s=1.0, prompt=0, reply=100, lengths="fixed")
    slow = Batching(step_fixed_s=0.02, step_stream_s=0.0, streams=1)
    one = run(layout(PLAIN, slow), asked, 2, 1, span_s=300)
    assert len({round(pace) for pace in one.tokens_per_s_each}) == 1
