"""The formulas of the planner give the figures they are said to rest on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reef.planning import physics
from reef.planning.devices import CUDA, EDGETPU, UnknownDevices, parse_devices
from reef.planning.models import SMOLLM2, SPECIFICATION

TABLE = {model.name: model for model in SPECIFICATION}
MODELS = st.floats(1e6, 1e11)


def test_the_bandwidth_is_what_the_published_benchmarks_imply() -> None:
    """The three networks that do not fit the SRAM imply the link speed in use within 3 % over USB 3."""
    large = [row for row in physics.BENCHMARKS if row.parameters > physics.EDGETPU_NEAR_BYTES]
    assert len(large) == 3
    for row in large:
        implied = physics.implied_link(row, row.usb_s)
        assert implied == pytest.approx(physics.EDGETPU_LINK_BYTES_PER_S, rel=0.03)
        assert physics.implied_link(row, row.board_s) < implied < 0.5e9  # never more than PCIe Gen2 x1 carries


@pytest.mark.parametrize(
    ("name", "devices", "token_s"),
    [("1B", 1, 2.21), ("4B", 4, 8.83), ("7B", 8, 15.4), ("13B", 16, 28.7), ("27B", 32, 59.5)],
)
def test_a_token_of_the_specifications_models_takes_seconds(name: str, devices: int, token_s: float) -> None:
    """The specification promises 50 to 200 ms."""
    assert devices == TABLE[name].spec_devices
    assert physics.pass_s(TABLE[name].weight_bytes, devices, EDGETPU) == pytest.approx(token_s, rel=0.005)


def test_the_default_model_fits_twenty_devices() -> None:
    """Then nothing is fetched, and a token costs the hops and the arithmetic."""
    assert physics.devices_to_hold(SMOLLM2.weight_bytes, EDGETPU) == 20
    assert physics.pass_s(SMOLLM2.weight_bytes, 20, EDGETPU) == pytest.approx(
        20 * physics.EDGETPU_HOP_S + 2 * SMOLLM2.parameters / 4e12
    )


@given(MODELS, st.integers(1, 200))
def test_a_device_more_never_fetches_more(weight_bytes: float, devices: int) -> None:
    """A pass without its hops does not get longer with another device, and a larger model never gets faster."""
    free = physics.Silicon(near_bytes=7e6, link_bytes_per_s=0.45e9, ops_per_s=4e12)
    one, more = (physics.pass_s(weight_bytes, count, free) for count in (devices, devices + 1))
    assert more <= one
    assert physics.pass_s(weight_bytes * 1.5, devices, free) > one


@given(st.floats(0.01, 10.0))
def test_the_largest_model_is_at_the_limit(wanted_s: float) -> None:
    """What is told as the largest possible model is just possible."""
    size = physics.largest_model(lambda n: physics.pass_s(n, 8, EDGETPU) <= wanted_s)
    assert physics.pass_s(size * 0.999, 8, EDGETPU) <= wanted_s < physics.pass_s(size * 1.001 + 1, 8, EDGETPU)
    assert physics.largest_model(lambda _: False) == 0.0


def test_a_gpu_is_bound_by_its_memory() -> None:
    """Weights in its memory are read once a token."""
    assert physics.pass_s(10e9, 1, CUDA, tokens=0) == pytest.approx(10e9 / 1.008e12)


@pytest.mark.parametrize("text", ["edgetpu", "edgetpu:0", "edgetpu:9999", "abacus:3", "cpu:two", "96"])
def test_unknown_devices_are_told_with_what_is_known(text: str) -> None:
    """The message names the kinds and the range."""
    with pytest.raises(UnknownDevices, match=r"KIND:N, N from 1 to 1024: edgetpu:N"):
        parse_devices(text)
