"""Engines in a worker's memory: who gets which, and when one leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reef.ledger import JobRecord
from reef.placement.model import model_route, persona_route
from workers.engines.simulated import SimulatedEngine
from workers.engines.simulated_knowledge import SimulatedEmbedding, SimulatedParser
from workers.rack import Mounted, Rack, Work
from workers.rates import WINDOW_S, Rates

PATIENCE_S = 20.0


class _Closing(SimulatedEngine):
    """Tells when it is closed."""

    def __init__(self, model: str, trace_file: Path) -> None:
        super().__init__(model, context_tokens=512, hang_s=60, trace_file=trace_file)
        self.closed = threading.Event()

    def close(self) -> None:
        super().close()
        self.closed.set()


@pytest.fixture
def rack() -> Iterator[Rack]:
    """An empty one."""
    made = Rack()
    yield made
    made.close()


def mount(rack: Rack, tmp_path: Path, model: str, name: str = "") -> tuple[Mounted, _Closing]:
    """Put an engine in."""
    engine = _Closing(model, tmp_path / "trace")
    return rack.mount("chat", name or model, engine), engine


def record(route: str | None = None) -> JobRecord:
    """A job with this route."""
    fields = dict.fromkeys(("session_id", "owner", "started_at", "finished_at", "result", "error"))
    times = dict.fromkeys(("created_at", "deadline_at", "not_before"), 0.0)
    return JobRecord(
        id="j", task="t", pool="chat", payload="", state="running", token=1, attempts=1, attempts_max=3,
        stop_requested=False, route=route, **fields, **times,
    )  # fmt: skip


def test_a_job_keeps_its_engine_and_the_engine_waits_for_it(rack: Rack, tmp_path: Path) -> None:
    """The newest serves new jobs; the one before is closed when its last job has left, and its work still counts."""
    old, old_engine = mount(rack, tmp_path, "simulated:token_ms=1")
    rack.serve(old)
    with rack.enter("chat") as visit:
        assert visit is not None
        new, new_engine = mount(rack, tmp_path, "simulated:token_ms=2")
        rack.serve(new)
        rack.keep("chat", {new.name})
        assert visit.engine(record()) is old_engine
        with rack.enter("chat") as other:
            assert other is not None
            assert other.engine(record()) is new_engine
        assert not old_engine.closed.is_set()
        assert rack.models("chat") == (new_engine.model,)
        old_engine._steps = 7
    assert old_engine.closed.wait(PATIENCE_S)
    assert not new_engine.closed.is_set()
    assert rack.work() == Work(7, tokens=7)
    rack.close()
    assert new_engine.closed.is_set()
    deadline = time.monotonic() + PATIENCE_S
    while not rack.is_empty:  # the thread that closed the old one notes it a moment later
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_between_its_coming_and_its_claim_a_job_holds_every_engine(rack: Rack, tmp_path: Path) -> None:
    """An engine cannot be closed under a job that is about to get it."""
    old, old_engine = mount(rack, tmp_path, "simulated")
    rack.serve(old)
    with rack.enter("chat") as visit:
        assert visit is not None
        rack.refuse("chat")
        rack.keep("", ())
        with rack.enter("chat") as late:
            assert late is None
        assert visit.engine(record()) is old_engine
        assert not old_engine.closed.is_set()
    assert old_engine.closed.wait(PATIENCE_S)


def test_a_route_names_a_model_in_memory(rack: Rack, tmp_path: Path) -> None:
    """By the name of its place or its own; any other route, and a model that is not here, get what serves."""
    serving, engine = mount(rack, tmp_path, "simulated")
    beside, resident = mount(rack, tmp_path, "simulated:token_ms=3", "/models/three.gguf")
    rack.serve(serving)
    wanted = {
        model_route("simulated:token_ms=3"): resident,
        model_route("/models/three.gguf"): resident,
        model_route("simulated"): engine,
        model_route("gone"): engine,
        persona_route("alice"): engine,
        None: engine,
    }
    for route, expected in wanted.items():
        with rack.enter("chat") as visit:
            assert visit is not None
            assert visit.engine(record(route)) is expected, route
            assert rack.running("chat")
    assert not rack.running()
    assert rack.drop_beside()
    assert resident.closed.wait(PATIENCE_S)
    assert rack.find("chat", beside.name) is None
    assert not rack.drop_beside()


def test_an_engine_that_has_just_left_cannot_serve(rack: Rack, tmp_path: Path) -> None:
    """Whoever found it a moment ago is told, and loads the model anew."""
    old, old_engine = mount(rack, tmp_path, "simulated")
    rack.keep("chat", ())
    assert old_engine.closed.wait(PATIENCE_S)
    assert not rack.serve(old)
    assert rack.serving("chat") is None


def test_what_encoders_do_counts_as_inferences(rack: Rack) -> None:
    """Vectors are no tokens; what a parser does is neither."""
    encoder = SimulatedEmbedding("simulated")
    rack.mount("embed", "simulated", encoder)
    rack.mount("index", "simulated", SimulatedParser("simulated"))
    encoder.embed_documents(["a", "b"], threading.Event())
    assert rack.work() == Work(encoder.steps(), tokens=0, inferences=encoder.steps())
    assert encoder.steps() > 0


def test_what_is_told_of_rates_was_counted(rack: Rack, tmp_path: Path) -> None:
    """Tokens over the last seconds, not since the start."""
    serving, engine = mount(rack, tmp_path, "simulated")
    rack.serve(serving)
    now = 100.0
    rates = Rates(rack.work, lambda: now)
    assert rates.per_second() == (0.0, 0.0)
    for _ in range(10):
        now += 1.0
        engine._steps += 20
        told = rates.per_second()
    assert told == (20.0, 0.0)
    for _ in range(int(WINDOW_S)):
        now += 1.0
        told = rates.per_second()
    assert told == (0.0, 0.0)
