"""The vector store as a part of the reef: it is started where documents are read, and only they depend on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from knowledge_library import add_document, hashed, index_waiting, window_ids
from services import ChromaServer, free_port
from whole_product import SIMULATED_QUEUES, Reef, StartReef, running_reef

from cli.checks import all_checks
from cli.main import main
from reef.knowledge import heartbeat
from reef.knowledge.vectors import VectorIndex
from reef.records.database import Database, migrate
from reef.settings import Settings

WITH_DOCUMENTS = (
    SIMULATED_QUEUES + "  index: {queue: index, devices: [simulated], engine: simulated, model: simulated}\n"
)
WAIT_S = 30.0


@pytest.fixture(scope="module")
def reading_reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A reef that reads documents."""
    with running_reef(tmp_path_factory.mktemp("reading"), WITH_DOCUMENTS) as started:
        yield started


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll something that has no event of its own."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s for: {what}"
        time.sleep(0.02)


def vectors_check(settings: Settings) -> str:
    """What `doctor` says of the vector store."""
    return next(check.verdict for check in all_checks(settings) if check.name == "vectors")


def test_it_runs_and_is_told_of(reading_reef: Reef) -> None:
    """One process on loopback, in status, in readiness and in doctor; its files are private."""
    url = reading_reef.settings.chroma_url
    assert url.startswith("http://127.0.0.1:")
    assert heartbeat.beats(url)
    assert "chroma" in reading_reef.processes.pids()
    assert reading_reef.get("/api/v1/system/status")["vectors"] == "ok"
    assert reading_reef.get("/readyz")["checks"]["vectors"] == "ok"
    assert vectors_check(reading_reef.settings.changed(chroma_url="")) == "good"
    assert (reading_reef.data_dir / "chroma").stat().st_mode & 0o077 == 0


def test_killed_it_comes_back_with_what_it_had(reading_reef: Reef) -> None:
    """Under the same URL; what was acknowledged is there."""
    url = reading_reef.settings.chroma_url
    index = VectorIndex(url)
    index.upsert("shared", [1], [hashed("kept").tobytes()], [{"language": ""}])
    killed = reading_reef.processes.kill("chroma", signal.SIGKILL)
    wait_until(lambda: reading_reef.processes.pids().get("chroma", killed) != killed, "another process")
    wait_until(lambda: heartbeat.beats(url), "its first answer")
    assert index.query(["shared"], hashed("kept").tobytes(), 1)[0][0] == 1
    index.close()


def test_chats_go_on_without_it(reading_reef: Reef) -> None:
    """A vector store that hangs makes nothing unready; it is said, and the next chat is answered."""
    reading_reef.processes.kill("chroma", signal.SIGSTOP)
    try:
        with reading_reef.client() as client:
            ready = client.get("/readyz")
            body = {"persona_id": "alice", "message": "Hello!"}
            reply = client.post("/api/v1/chat", json=body)
            assert client.get("/api/v1/system/status").json()["vectors"] == "down"
        assert (ready.status_code, ready.json()["checks"]["vectors"][:15]) == (200, "does not answer")
        assert reply.status_code == 200
        assert reply.json()["message"]["content"]
        assert vectors_check(reading_reef.settings) == "bad"
    finally:
        reading_reef.processes.kill("chroma", signal.SIGCONT)


def test_a_server_of_one_s_own(start_reef: StartReef, own_chroma: ChromaServer) -> None:
    """With REEF_CHROMA_URL none is started; a silent one does not keep the reef from serving."""
    reef = start_reef(WITH_DOCUMENTS, chroma_url=own_chroma.url)
    assert "chroma" not in reef.processes.pids()
    assert reef.get("/api/v1/system/status")["vectors"] == "ok"
    own_chroma.stop()
    assert reef.get("/readyz")["checks"]["vectors"] != "ok"


def test_a_reef_that_reads_nothing_starts_none(reef: Reef) -> None:
    """No process, no check, no file."""
    assert "chroma" not in reef.processes.pids()
    assert "vectors" not in reef.get("/readyz")["checks"]
    assert reef.get("/api/v1/system/status")["vectors"] == "off"
    assert vectors_check(reef.settings) == "good"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://host", "no url", "http://"])
def test_a_url_that_does_not_answer_is_explained(url: str) -> None:
    """Refused, or no URL at all: a reason, never an exception."""
    assert heartbeat.why_silent(url)


def test_another_server_is_no_chroma(reef: Reef) -> None:
    """What answers HTTP is not enough."""
    assert not heartbeat.beats(reef.url)


@pytest.fixture
def command(tmp_path: Path, own_chroma: ChromaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Calls `coral-reef` with a library whose vector store runs."""
    monkeypatch.setenv("REEF_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REEF_CHROMA_URL", own_chroma.url)
    monkeypatch.setenv("REEF_PORT", str(free_port()))
    (tmp_path / "data").mkdir()
    url = f"sqlite:///{tmp_path / 'data' / 'reef.db'}"
    migrate(url)
    database, index = Database(url), VectorIndex(own_chroma.url)
    document_id = add_document(database, ["first", "second", "third"])
    index_waiting(database, index)
    index.delete("shared", window_ids(database, document_id)[:1])

    def call(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result.output

    yield call
    index.close()
    database.dispose()


def test_the_command_line_checks_repairs_and_rebuilds(command: Callable[..., str]) -> None:
    """`knowledge check` changes nothing; `doctor --repair` and `knowledge rebuild` bring the index up."""
    assert "doctor --repair" in command("knowledge", "check", status=1)
    assert json.loads(command("doctor", "--repair", "--json"))["missing"] == 1
    assert "missing 0" in command("knowledge", "check")
    assert "rebuilt 3" in command("knowledge", "rebuild")
    assert json.loads(command("doctor", "--repair", "--rebuild", "--json"))["rebuilt"] == 3
    assert "--repair" in command("doctor", "--rebuild", status=2)


def test_a_repair_without_a_store_says_what_to_do(command: Callable[..., str], own_chroma: ChromaServer) -> None:
    """Nothing is started behind one's back."""
    own_chroma.stop()
    assert "coral-reef up" in command("doctor", "--repair", status=1)


def test_the_front_door_still_loads_neither_numpy_nor_chroma() -> None:
    """Asking for a sign of life needs the standard library only."""
    heavy = ("numpy", "chromadb", "chromadb_rust_bindings", "httpx")
    code = f"import app.factory, sys; print([name for name in {heavy!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
