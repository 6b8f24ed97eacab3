"""After a swap the new engine reads the last conversations: as their next turns will come, and never beside a job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reef.conversation import store
from reef.conversation.prompt import build_prompt
from reef.conversation.replay import replay
from reef.personas.store import PersonaDraft, create_persona, remove_persona
from reef.ports import ChatRequest, ChatResult, EngineRefused
from reef.records.database import Database
from workers.engines.simulated import SimulatedEngine
from workers.rack import Mounted, Rack
from workers.replaying import SESSIONS_MAX, Replaying

PATIENCE_S = 10.0


class _Reader(SimulatedEngine):
    """Keeps what it is given to read."""

    def __init__(self, trace_file: Path) -> None:
        super().__init__("simulated:token_ms=0", context_tokens=2048, hang_s=60, trace_file=trace_file)
        self.read: list[ChatRequest] = []

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        self.read.append(request)
        return super().generate(request, on_text, cancel)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[_Reader]:
    """An engine that has just been loaded."""
    engine = _Reader(tmp_path / "trace")
    yield engine
    engine.close()


def test_what_is_read_is_the_beginning_of_the_next_prompt(any_database: Database, reader: _Reader) -> None:
    """System text and all that was said; a conversation that is gone, or has nothing in it, is not read."""
    persona = create_persona(any_database, PersonaDraft(name="Alice", system_prompt="You are Alice."))
    with any_database.write() as connection:
        session = store.create_session(connection, persona.id)
        empty = store.create_session(connection, persona.id)
        for role, text in (("user", "Hello"), ("assistant", "Hi there"), ("user", "And?"), ("assistant", "Well")):
            store.add_message(connection, store.new_message(session.id, role, text))
    never = threading.Event()
    assert replay(any_database, reader, empty.id, 100, never) is None
    assert replay(any_database, reader, "gone", 100, never) is None
    assert reader.read == []
    assert replay(any_database, reader, session.id, 100, never) is not None
    (request,) = reader.read
    with any_database.write() as connection:
        store.add_message(connection, store.new_message(session.id, "user", "What next?"))
        said = store.history(connection, session.id)
    prompt, _ = build_prompt(persona, [], said, reader, 100)
    assert list(request.messages) == prompt[:-1]
    assert (request.tokens_max, request.cache_key) == (1, session.id)
    with any_database.write() as connection:
        remove_persona(connection, persona.id)
    assert replay(any_database, reader, session.id, 100, never) is None


class _Scene:
    """A worker's rack and what is read in it, step by step."""

    def __init__(self, reader: _Reader) -> None:
        self.rack = Rack()
        self.mounted = self.rack.mount("chat", "new", reader)
        self.rack.serve(self.mounted)
        self.replaying = Replaying(self.rack, self._replay)
        self.rack.on_visit = self.replaying.interrupt
        self.begun: list[str] = []
        self.cut: list[str] = []
        self.ended: list[str] = []
        self.heard = threading.Condition()
        self.go_on = threading.Event()
        self.go_on.set()

    def _replay(self, _onto: Mounted, session_id: str, cancel: threading.Event) -> ChatResult:
        with self.heard:
            self.begun.append(session_id)
            self.heard.notify_all()
        while not self.go_on.wait(0.01):
            if cancel.is_set():
                with self.heard:
                    self.cut.append(session_id)
                    self.heard.notify_all()
                return ChatResult("cancelled", 0, 0)
        if session_id == "refused":
            raise EngineRefused("its template does not take this")
        with self.heard:
            self.ended.append(session_id)
            self.heard.notify_all()
        return ChatResult("length", 1, 1)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until this is so."""
        with self.heard:
            assert self.heard.wait_for(condition, PATIENCE_S), (self.begun, self.ended)


@pytest.fixture
def scene(reader: _Reader) -> Iterator[_Scene]:
    """Before a swap."""
    made = _Scene(reader)
    yield made
    made.replaying.close()
    made.go_on.set()


def test_the_newest_are_read_first_and_only_so_many(scene: _Scene) -> None:
    """One that the engine refuses is left out; the next is read all the same."""
    for number in range(SESSIONS_MAX + 3):
        scene.replaying.note(str(number))
    scene.replaying.note("refused")
    scene.replaying.begin(scene.mounted)
    newest = [str(number) for number in reversed(range(4, SESSIONS_MAX + 3))]
    scene.wait(lambda: len(scene.ended) == len(newest))
    assert scene.ended == newest
    assert scene.begun == ["refused", *newest]


def test_a_persons_job_ends_the_reading_which_begins_again(scene: _Scene) -> None:
    """While a job is here nothing is read; when it has left the same conversation is."""
    scene.replaying.note("a")
    scene.go_on.clear()
    scene.replaying.begin(scene.mounted)
    scene.wait(lambda: scene.begun == ["a"])
    with scene.rack.enter("chat") as visit:
        assert visit is not None
        scene.wait(lambda: scene.cut == ["a"])
        scene.go_on.set()
        assert scene.begun == ["a"]
    scene.wait(lambda: scene.ended == ["a"])
    assert scene.begun == ["a", "a"]


def test_nothing_is_read_while_a_job_runs(scene: _Scene) -> None:
    """A conversation that ends on the old engine meanwhile is read after it."""
    scene.replaying.note("a")
    with scene.rack.enter("chat") as visit:
        assert visit is not None
        scene.replaying.begin(scene.mounted)
        scene.replaying.note("b")
        assert not scene.rack.wait_idle(0.05)
        assert scene.begun == []
    scene.wait(lambda: scene.ended == ["a", "b"])
