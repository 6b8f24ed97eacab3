"""A worker that has more to do than it has streams."""

from __future__ import annotations

import time

from chat_client import ChatClient
from whole_product import SIMULATED_QUEUES, StartReef


def test_a_stream_that_is_free_takes_the_next_job_at_once(start_reef: StartReef) -> None:
    """Thirty replies of some milliseconds on two streams: no stream sleeps until a timer of celery's wakes it."""
    queues = SIMULATED_QUEUES.replace("streams: 8", "streams: 2").replace(
        "model: simulated", 'model: "simulated:token_ms=1"'
    )
    reef = start_reef(queues)
    with ChatClient(reef.url) as chat:
        began = time.monotonic()
        runs = [chat.say(f"{n} hello", tokens_max=8) for n in range(30)]
        for run in runs:
            chat.finish(run)
        took_s = time.monotonic() - began
    assert [run.final["type"] for run in runs if run.final] == ["done"] * 30
    assert took_s < 8, "fifteen rounds; a second or two are lost in each when nobody wakes the worker"
