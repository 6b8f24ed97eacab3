"""Processes die in the middle of an upload: each file ends indexed exactly once, or failed with a reason."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from whole_product import KNOWLEDGE_QUEUES, REAL_KNOWLEDGE_QUEUES, Reef, StartReef, real_encoder, real_reef

from reef.knowledge import heartbeat
from reef.knowledge.consistency import compare
from reef.knowledge.vectors import VectorIndex
from reef.records.database import Database
from reef.records.tables import chunks, document_stores, documents, windows

PACED = KNOWLEDGE_QUEUES.replace(
    "    engine: simulated\n    streams: 4", "    engine: simulated\n    model: simulated:text_ms=4\n    streams: 4"
).replace(
    "    engine: simulated\n    streams: 2", "    engine: simulated\n    model: simulated:text_ms=8\n    streams: 2"
)
FILES = 100
PATIENCE_S = 60.0


def send(http: httpx.Client, texts: dict[str, str], **fields: str) -> str:
    """Upload files; gives the upload's id."""
    parts = [("file", (name, text)) for name, text in texts.items()]
    answer = http.post("/api/v1/documents/upload", files=parts, data=fields)
    assert answer.status_code == 202, answer.text
    upload_id: str = answer.json()["upload_id"]
    return upload_id


def hundred(prefix: str = "file", count: int = FILES) -> dict[str, str]:
    return {
        f"{prefix}{n:03}.txt": f"{prefix} {n} speaks of the sea and its fish, of tides and of storms"
        for n in range(count)
    }


def patiently(ask: Callable[[], httpx.Response]) -> dict[str, Any]:
    """What the web process answers, asked until it does: it may have been killed a moment ago."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer: dict[str, Any] = ask().raise_for_status().json()
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return answer


def upload_of(http: httpx.Client, upload_id: str) -> dict[str, Any]:
    """The upload as it is now."""
    return patiently(lambda: http.get(f"/api/v1/uploads/{upload_id}"))


def wait(http: httpx.Client, upload_id: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The upload, once this is true of it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        upload = upload_of(http, upload_id)
        if until(upload):
            return upload
        assert time.monotonic() < deadline, json.dumps(upload)
        time.sleep(0.02)


def search(http: httpx.Client, query: str) -> list[dict[str, Any]]:
    """Three passages, asked for until the web process answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = http.post("/api/v1/documents/query", json={"query": query, "k": 3}).raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            found: list[dict[str, Any]] = answer.json()["results"]
            return found


def done(upload: dict[str, Any]) -> bool:
    return bool(upload["state"] == "done")


def begun(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda upload: upload["progress"]["files"].get("indexed", 0) >= count


def check_records(reef: Reef, upload_id: str, expected: int) -> None:
    """Each document has one passage and one window with its vector, and stands in its store once."""
    database = Database(reef.settings.sqlalchemy_url)
    mine = documents.c.upload_id == upload_id
    passages = sa.select(sa.func.count(chunks.c.id)).join_from(documents, chunks).where(mine)
    vectors = (
        sa.select(sa.func.count(windows.c.id))
        .join_from(documents, chunks)
        .join(windows)
        .where(mine, windows.c.vector.is_not(None))
    )
    with database.read() as connection:
        assert connection.execute(passages).scalar() == expected
        assert connection.execute(vectors).scalar() == expected
        assert connection.execute(sa.select(sa.func.count()).select_from(document_stores)).scalar() == expected
        assert connection.execute(sa.select(documents.c.job_id).where(mine).distinct()).scalars().all() == [None]
    database.dispose()


def check_index(reef: Reef) -> None:
    """What can be seen can be found by its meaning."""
    deadline = time.monotonic() + PATIENCE_S
    while not heartbeat.beats(reef.settings.chroma_url):
        assert time.monotonic() < deadline, "the vector store was not started again"
        time.sleep(0.05)
    database, vectors = Database(reef.settings.sqlalchemy_url), VectorIndex(reef.settings.chroma_url)
    try:
        found = compare(database, vectors, repair=False)
        assert (found.missing, found.unembedded) == (0, 0), found
    finally:
        vectors.close()
        database.dispose()


def upload_and_kill(reef: Reef, files: int, victims: tuple[str, ...]) -> None:
    """kill -9, one after the other, in the middle of an upload; each file is there once in the end."""
    with reef.client() as http:
        upload_id = send(http, hundred(count=files))
        for number, victim in enumerate(victims):
            wait(http, upload_id, begun(files // 20 + files * 4 * number // (5 * len(victims))))
            reef.kill(victim)
        upload = wait(http, upload_id, done)
        assert upload["progress"]["files"] == {"indexed": files}
        check_records(reef, upload_id, files)
        check_index(reef)
        found = search(http, "file 42 sea")
        assert found[0]["name"] == "file042.txt"
        assert len({one["document_id"] for one in found}) == len(found)


@pytest.mark.parametrize(
    "victims",
    [
        ("index-simulated", "embed-simulated", "index-simulated", "embed-simulated"),
        ("web", "broker", "chroma", "sweeper", "chroma", "web"),
    ],
    ids=["workers", "services"],
)
def test_each_file_is_indexed_once_whoever_dies(start_reef: StartReef, victims: tuple[str, ...]) -> None:
    """Whoever has a part in it dies in the middle of a hundred files."""
    upload_and_kill(start_reef(PACED), FILES, victims)


@pytest.mark.soak
def test_each_of_five_hundred_files_is_indexed_once_by_the_real_engines(tmp_path: Path) -> None:
    """The same with the parser and the encoder that ship, and all of them among the dead."""
    real_encoder()
    victims = ("index-cpu", "chroma", "embed-cpu", "broker", "web", "chroma", "index-cpu", "embed-cpu")
    with real_reef(tmp_path, REAL_KNOWLEDGE_QUEUES) as reef:
        upload_and_kill(reef, 500, victims)


def test_a_file_that_kills_its_worker_fails_alone(start_reef: StartReef) -> None:
    """One poisonous file among others, in the parser and in the embedder: it fails with a reason, they are indexed."""
    reef = start_reef(PACED)
    with reef.client() as http:
        texts = dict(list(hundred().items())[:20]) | {"poison.txt": "!crash"}
        upload_id = send(http, texts)
        upload = wait(http, upload_id, done)
        assert upload["progress"]["files"] == {"indexed": 20, "failed": 1}
        (failed,) = http.get("/api/v1/documents", params={"state": "failed"}).json()["documents"]
        assert (failed["name"], failed["reason_code"]) == ("poison.txt", "lost")
        assert "died" in failed["reason"]


def test_a_frozen_worker_is_overtaken_and_writes_nothing(start_reef: StartReef) -> None:
    """SIGSTOP past the lease with a second device: the other goes on; the thawed one is fenced off."""
    two = PACED.replace(
        "devices: [simulated]\n    engine: simulated\n    model: simulated:text_ms=8",
        "devices: [simulated:0, simulated:1]\n    engine: simulated\n    model: simulated:text_ms=8",
    ).replace("lease_s: 5", "lease_s: 1")
    two = two.replace("attempts_max: 3", "attempts_max: 9")  # a busy machine may miss such a lease by itself
    reef = start_reef(two)
    with reef.client() as http:
        upload_id = send(http, hundred())
        wait(http, upload_id, begun(3))
        pid = reef.freeze("index-simulated-0")
        try:
            wait(http, upload_id, done)
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)  # what the thawed one still believes it has to write
        assert upload_of(http, upload_id)["progress"]["files"] == {"indexed": FILES}
        check_records(reef, upload_id, FILES)


def test_a_web_process_that_dies_in_a_resumable_upload_keeps_what_came(start_reef: StartReef) -> None:
    """kill -9 between two parts: the offset is that of the bytes that came, and the file is whole in the end."""
    reef = start_reef(PACED)
    version = {"Tus-Resumable": "1.0.0"}
    content = b"bytes that survive " * 5_000
    with reef.client() as http:
        place = http.post(
            "/api/v1/uploads/files",
            headers={**version, "Upload-Length": str(len(content)), "Upload-Metadata": "filename YS50eHQ="},
        ).headers["Location"]
        part = {**version, "Content-Type": "application/offset+octet-stream"}
        http.patch(place, content=content[:40_000], headers={**part, "Upload-Offset": "0"}).raise_for_status()
        document_id = place.rpartition("/")[2]
        upload_id = http.get(f"/api/v1/documents/{document_id}").json()["upload_id"]
    reef.replaced("web", reef.kill("web"))
    with reef.client() as http:
        upload_of(http, upload_id)
        assert http.head(place, headers=version).headers["Upload-Offset"] == "40000"
        http.patch(place, content=content[40_000:], headers={**part, "Upload-Offset": "40000"}).raise_for_status()
        assert wait(http, upload_id, done)["progress"]["files"] == {"indexed": 1}
        assert http.get(f"/api/v1/documents/{document_id}/original").content == content


def test_the_same_files_by_two_people_at_once(start_reef: StartReef) -> None:
    """Two uploads of the same files at the same moment: each content is worked on once, both uploads are done."""
    reef = start_reef(PACED)
    texts = dict(list(hundred().items())[:30])
    ids: list[str] = []

    def upload() -> None:
        with reef.client() as http:
            ids.append(send(http, texts))

    threads = [threading.Thread(target=upload) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reef.client() as http:
        for upload_id in ids:
            assert wait(http, upload_id, done)["progress"]["files"] == {"indexed": 30}
        listed = http.get("/api/v1/documents", params={"limit": 100}).json()["documents"]
    originals = [document for document in listed if document["duplicate_of"] is None]
    assert len(listed) == 60
    assert len({document["sha256"] for document in originals}) == len(originals) == 30


def test_pause_cancel_and_delete_while_it_runs(start_reef: StartReef) -> None:
    """Each takes effect at once and for good; nothing that was ended comes back."""
    reef = start_reef(
        PACED.replace("text_ms=8", "text_ms=80")
    )  # there is something left to pause, however late it comes
    with reef.client() as http:
        upload_id = send(http, hundred())
        wait(http, upload_id, begun(5))
        assert http.post(f"/api/v1/uploads/{upload_id}/pause").json()["state"] == "paused"
        other = send(http, {"other.txt": "another upload passes"})
        wait(http, other, done)
        paused = upload_of(http, upload_id)["progress"]["files"]
        assert sum(paused.values()) - paused["indexed"] > 0
        assert http.post(f"/api/v1/uploads/{upload_id}/resume").json()["state"] == "running"
        waiting = http.get("/api/v1/documents", params={"upload_id": upload_id, "state": "queued", "limit": 3}).json()
        for document in waiting["documents"]:
            assert http.delete(f"/api/v1/documents/{document['id']}").status_code == 204
        wait(http, upload_id, begun(paused["indexed"] + 10))
        assert http.post(f"/api/v1/uploads/{upload_id}/cancel").json()["state"] == "cancelled"
        files = upload_of(http, upload_id)["progress"]["files"]
        last = send(http, {"last.txt": "what comes after"})
        wait(http, last, done)
        assert upload_of(http, upload_id)["progress"]["files"] == files
        assert set(files) == {"indexed", "cancelled"}
        assert sum(files.values()) == FILES - len(waiting["documents"])


def test_a_full_disk_is_told_and_nothing_half_is_kept(start_reef: StartReef) -> None:
    """With less room than the reserve: 507 with the numbers, by each way of uploading, and no row or file stays."""
    reef = start_reef(KNOWLEDGE_QUEUES, disk_reserve_bytes=10**15)
    with reef.client() as http:
        answer = http.post("/api/v1/documents/upload", files={"file": ("a.txt", b"words")})
        assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
        assert "MB" in answer.json()["detail"]
        resumable = http.post(
            "/api/v1/uploads/files",
            headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": "filename YS50eHQ="},
        )
        assert resumable.status_code == 507
        assert http.get("/api/v1/documents").json()["total"] == 0
        assert not [path for path in (reef.data_dir / "originals").rglob("*") if path.is_file()]


def test_a_stop_hands_everything_back_and_the_next_start_goes_on(start_reef: StartReef) -> None:
    """Ctrl-C in the middle of an upload: the next start of the same data directory finishes it."""
    reef = start_reef(PACED)
    with reef.client() as http:
        upload_id = send(http, hundred())
        wait(http, upload_id, begun(10))
    reef.processes.stop()
    again = start_reef(PACED, data_dir=reef.data_dir)
    with again.client() as http:
        assert wait(http, upload_id, done)["progress"]["files"] == {"indexed": FILES}
    check_records(again, upload_id, FILES)
