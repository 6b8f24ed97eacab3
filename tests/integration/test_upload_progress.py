"""How uploads are told: how often, in which order, and what remains when the broker was away."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import redis
import sqlalchemy as sa
from workshop import Workshop

from reef import keys, streams
from reef.contracts.events import DocumentChanged, UploadEvent, UploadProgress
from reef.contracts.jobs import EmbedJob, IndexJob, ParseJob
from reef.knowledge import stages
from reef.knowledge.progress import Change, Progress, measure
from reef.records.database import Database
from reef.records.tables import windows


class Broker(Protocol):
    url: str


@pytest.fixture
def shop(shared_redis: Broker, migrated_file: Path, tmp_path: Path) -> Iterator[Workshop]:
    shutil.copyfile(migrated_file, tmp_path / "reef.db")
    database = Database(f"sqlite:///{tmp_path / 'reef.db'}")
    with redis.Redis.from_url(shared_redis.url) as client:
        made = Workshop(database, client, tmp_path)
        yield made
        made.progress.close()
    database.dispose()


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def told(shop: Workshop, upload_id: str) -> list[UploadEvent]:
    return streams.read_upload(shop.client, upload_id, 0)


def test_counts_are_told_at_most_four_times_a_second_by_all_processes_together(shop: Workshop) -> None:
    """Three processes that are busy with one upload for a second share the four tellings of each second."""
    upload_id = shop.uploads.create("busy", ["shared"]).id
    others = [Progress(shop.client, shop.database) for _ in range(3)]
    until = time.monotonic() + 1.0
    while time.monotonic() < until or len(told(shop, upload_id)) < 3:
        for other in others:
            other.touch([upload_id])
        time.sleep(0.005)
    for other in others:
        other.close()
    counts = [event for event in told(shop, upload_id) if isinstance(event, UploadProgress)]
    span_ms = (counts[-1].seq - counts[0].seq) / streams.NUMBERS_PER_MS
    assert 3 <= len(counts) <= span_ms / keys.UPLOAD_TOLD_MS + 2


def test_every_change_of_a_document_is_told_in_order(shop: Workshop) -> None:
    """Each state once, with its name and reason; the stream is capped and expires."""
    upload_id = shop.add({"a.txt": "words", "bad.txt": "!bad"})
    shop.run_all()
    shop.progress.close()
    changes = [event for event in told(shop, upload_id) if isinstance(event, DocumentChanged)]
    assert [event.state for event in changes if event.name == "a.txt"] == [
        "queued", "parsing", "embedding", "embedding", "indexing", "indexed",
    ]  # fmt: skip
    last = [event for event in changes if event.name == "bad.txt"][-1]
    assert (last.state, last.reason_code, bool(last.reason)) == ("failed", "corrupt", True)
    assert 0 < shop.client.ttl(keys.upload_events(upload_id)) <= keys.UPLOAD_EVENTS_TTL_S  # type: ignore[operator]


def test_an_older_word_about_a_document_is_not_told(shop: Workshop) -> None:
    """Two processes may tell in the wrong order; a client never sees a document go back."""
    upload_id = shop.uploads.create("order", ["shared"]).id
    newer = Change("d", upload_id, "a.txt", "indexed", 20.0)
    older = Change("d", upload_id, "a.txt", "indexing", 10.0)
    one, other = (Progress(shop.client, shop.database) for _ in range(2))
    one.tell([newer])
    one.close()
    other.tell([older, Change("e", upload_id, "b.txt", "queued", 10.0)])
    other.close()
    states = [(event.document_id, event.state) for event in told(shop, upload_id) if isinstance(event, DocumentChanged)]
    assert states == [("d", "indexed"), ("e", "queued")]


def test_the_end_of_an_upload_comes_after_the_ends_of_its_files(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tells it tells those, too, that another process has not come to yet; later words of it are left out."""
    upload_id = shop.add({"a.txt": "words", "bad.txt": "!bad"})
    late: list[Change] = []
    monkeypatch.setattr(shop.progress, "tell", late.extend)
    shop.run_all()
    for changes in ([], late):
        other = Progress(shop.client, shop.database)
        other.tell(changes)
        other.touch([upload_id])
        other.close()
        events = told(shop, upload_id)
        last = {event.name: event.state for event in events if isinstance(event, DocumentChanged)}
        assert last == {"a.txt": "indexed", "bad.txt": "failed"}
        ends = [event for event in events if isinstance(event, DocumentChanged) and event.state in last.values()]
        assert len(ends) == 2
        assert isinstance(events[-1], UploadProgress)
        assert events[-1].state == "done"
        shop.client.delete(keys.upload_told(upload_id))


def test_a_broker_that_was_away_hears_it_later(
    own_redis: Broker, shop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    """What happened meanwhile is told when it is back; who had to tell it waited for nothing."""
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.5, retry=None) as client:
        progress = Progress(client, shop.database)
        upload_id = shop.uploads.create("away", ["shared"]).id
        own_redis.stop()  # type: ignore[attr-defined]
        progress.tell([Change("d", upload_id, "a.txt", "queued", 1.0)])

        def asking() -> set[str | None]:
            return {one.threadName for one in caplog.records if "progress waits: the broker" in one.getMessage()}

        wait_until(asking)
        assert asking() == {"progress"}, "who tells does not ask the broker"
        own_redis.start()  # type: ignore[attr-defined]
        wait_until(lambda: len(streams.read_upload(client, upload_id, 0)) >= 2)
        progress.close()
        assert not [thread for thread in threading.enumerate() if thread is progress._thread]


def test_a_rate_and_an_end_are_estimated(shop: Workshop) -> None:
    """Files and bytes per second of the last half minute, and from them the time that is left."""
    upload_id = shop.add({f"{n}.txt": f"words {n}" for n in range(40)})
    for kind in (ParseJob, EmbedJob, IndexJob):
        shop.run(shop.waiting(kind)[0])
    with shop.database.read() as connection:
        counts = measure(connection, upload_id, time.time() + 1.0)
    assert counts is not None
    assert 0 < counts.files["indexed"] < 40
    assert counts.files_per_s > 0
    assert counts.bytes_per_s > 0
    assert counts.eta_s is not None
    assert counts.eta_s == pytest.approx((40 - counts.files["indexed"]) / counts.files_per_s, rel=0.1)


def test_one_large_file_is_seen_to_move(shop: Workshop) -> None:
    """Its vectors are counted while it gets them, and give its share, the rate and the time that is left."""
    upload_id = shop.add({"large.txt": "\f".join(f"words of page {n}" for n in range(40))})
    shop.run(shop.waiting(ParseJob)[0])
    with shop.database.write() as connection:
        ids = connection.execute(sa.select(windows.c.id).order_by(windows.c.id)).scalars().all()
        assert len(ids) >= 2
        half = ids[: len(ids) // 2]
        connection.execute(windows.update().where(windows.c.id.in_(half)).values(vector=b"made"))
    (document,) = shop.documents()
    share = len(half) / len(ids)
    with shop.database.read() as connection:
        counts = measure(connection, upload_id, document.state_at + 10.0)
    assert counts is not None
    assert document.embedded_share == pytest.approx(share, abs=0.001)
    assert (counts.windows, counts.windows_embedded, counts.files) == (len(ids), len(half), {"embedding": 1})
    assert counts.bytes_per_s == pytest.approx(document.size_bytes * share / 10.0, abs=0.1)
    assert counts.eta_s == pytest.approx(10.0 * (1 - share) / share, abs=0.1)


def test_the_work_tells_that_vectors_grow_in_number(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every part that is stored, though the file stays where it is."""
    monkeypatch.setattr(stages, "EMBED_STORED_TOGETHER", 1)
    upload_id = shop.add({"large.txt": "\f".join(f"words of page {n} " * 200 for n in range(3))})
    shop.run(shop.waiting(ParseJob)[0])
    touched: list[str] = []
    monkeypatch.setattr(shop.progress, "touch", touched.extend)
    shop.run(shop.waiting(EmbedJob)[0])
    with shop.database.read() as connection:
        parts = connection.execute(sa.select(sa.func.count()).select_from(windows)).scalar_one()
    assert parts > 2
    assert touched.count(upload_id) >= parts - 1  # the last one ends the file


def test_what_was_to_be_told_later_is_told_at_the_end(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that take long are not counted again soon; who ends does not wait for that, nor leave it out."""
    upload_id = shop.uploads.create("slow", ["shared"]).id
    progress = Progress(shop.client, shop.database)
    counted: list[float] = []

    def changes_meanwhile(connection: sa.Connection, upload: str, now: float) -> UploadProgress | None:
        if not counted:
            progress.touch([upload])
        counted.append(now)
        return measure(connection, upload, now)

    monkeypatch.setattr("reef.knowledge.progress.measure", changes_meanwhile)
    monkeypatch.setattr("reef.knowledge.progress.COST_SHARE", 1e-6)
    progress.touch([upload_id])
    wait_until(lambda: told(shop, upload_id))
    progress.close()  # by itself it would rest for hours now
    assert len(counted) == len(told(shop, upload_id)) == 2
