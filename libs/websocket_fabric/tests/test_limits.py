"""Bounds that make no sense are refused where they are written down, not where they would have shown."""

from __future__ import annotations

import math
from typing import Any

import pytest

from websocket_fabric import Backoff, Limits, ReconnectingClient, connect
from websocket_fabric.watch import Watch


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"when_full": "blok"}, "when_full must be one of block, drop_oldest, close, not 'blok'"),
        ({"message_bytes_max": 0}, "message_bytes_max must be a whole number, 1 or more, not 0"),
        ({"inbox_messages_max": 0}, "inbox_messages_max must be a whole number, 1 or more"),
        ({"connections_max": -1}, "connections_max must be a whole number, 1 or more"),
        ({"outbox_bytes_max": 1e6}, "outbox_bytes_max must be a whole number"),
        ({"fragments_max": "64"}, "fragments_max must be a whole number"),
        ({"socket_send_bytes": -1}, "socket_send_bytes must be a whole number, 0 or more"),
        ({"idle_timeout_s": 0}, "idle_timeout_s must be a number of seconds, 0.001 or more, not 0"),
        ({"ping_timeout_s": -5}, "ping_timeout_s must be a number of seconds"),
        ({"close_timeout_s": math.nan}, "close_timeout_s must be a number of seconds"),
        ({"handshake_timeout_s": math.inf}, "handshake_timeout_s must be a number of seconds"),
        ({"shutdown_timeout_s": -1}, "shutdown_timeout_s must be a number of seconds, 0 or more"),
        ({"idle_timeout_s": "50"}, "idle_timeout_s must be a number of seconds"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    """By its name, with what it must be."""
    with pytest.raises(ValueError, match=f"Limits: {words}"):
        Limits(**wrong)


def test_the_smallest_that_make_sense_are_taken() -> None:
    """Whole seconds are times, too; a server has a clock for all of them."""
    limits = Limits(
        message_bytes_max=1, connections_max=1, socket_send_bytes=0, shutdown_timeout_s=0, idle_timeout_s=0.001
    )
    assert Watch(limits).sweep_s > 0
    assert Limits(idle_timeout_s=30).idle_timeout_s == 30


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"first_s": -1}, "first_s must be a number of seconds, 0 or more, not -1"),
        ({"longest_s": math.inf}, "longest_s must be a number of seconds"),
        ({"stable_s": math.nan}, "stable_s must be a number of seconds"),
        ({"attempts_max": 0}, "attempts_max must be a whole number, 1 or more"),
        ({"give_up_after_s": -1}, "give_up_after_s must be a number of seconds"),
        ({"hint_longest_s": None}, "hint_longest_s must be a number of seconds"),
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    """Likewise."""
    with pytest.raises(ValueError, match=f"Backoff: {words}"):
        Backoff(**wrong)


def test_a_client_may_never_give_up_but_must_say_what_it_does_when_away() -> None:
    """An endless time is one that can be meant; a policy that is not there cannot."""
    assert Backoff(give_up_after_s=math.inf).give_up_after_s == math.inf
    never: Any = "never"
    with pytest.raises(ValueError, match="when_away must be one of refuse, drop_oldest, not 'never'"):
        ReconnectingClient(connect("ws://127.0.0.1/"), when_away=never)
