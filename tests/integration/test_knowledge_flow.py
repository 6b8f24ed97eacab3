"""Files from upload to index, job by job, on both databases: who is worked on when, and what faults do to whom."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from workshop import Killed, Workshop, ask, ids_of, kill

from reef.contracts.jobs import EmbedJob, IndexJob, ParseJob
from reef.knowledge import documents as documents_of
from reef.knowledge import flow, stages
from reef.knowledge.uploads import UploadClosed, UploadFull
from reef.ledger.sweep import sweep
from reef.ports import Cancelled, EngineError, ParseFailed
from reef.records.tables import chunks, documents, jobs, uploads, windows


def files(count: int, prefix: str = "f") -> dict[str, str | bytes]:
    """Small files of different content."""
    return {f"{prefix}{number:03}.txt": f"{prefix} number {number} speaks of coral" for number in range(count)}


def count(shop: Workshop, table: sa.Table) -> int:
    with shop.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_files_come_to_their_end_and_are_found(shop: Workshop) -> None:
    """Parse, embed, index: each file once, its passages and vectors in the records, the upload done."""
    upload_id = shop.add(files(40))
    shop.run_all()
    assert set(shop.states().values()) == {"indexed"}
    assert count(shop, chunks) == count(shop, windows) == 40
    assert shop.uploads.get(upload_id).state == "done"
    assert ask(shop, "f number 7")[0] == "f007.txt"
    document = shop.documents()[0]
    assert (document.title, document.language, document.embedded_by) == ("f000", "en", "simulated")


def test_an_upload_whose_last_worker_died_before_saying_so_is_done(shop: Workshop) -> None:
    """Its last file is indexed and nothing moves any more: the sweeper sees that the upload is at its end."""
    upload_id = shop.add(files(2))
    shop.run_all()
    with shop.database.write() as connection:
        connection.execute(uploads.update().values(state="running", finished_at=None))
    shop.flow.look()
    assert shop.uploads.get(upload_id).state == "done"


def test_work_in_flight_is_bounded_and_shared_between_uploads(shop: Workshop) -> None:
    """A thousand files make a handful of jobs; a small upload that came later is done long before the big one."""
    big = shop.add(files(400, "big"))
    waiting = shop.waiting(ParseJob)
    assert len(waiting) == flow.PARSE_JOBS_PER_STREAM * 2
    small = shop.add(files(3, "small"))
    for _ in range(12):
        for record in shop.waiting():
            shop.run(record)
        if shop.uploads.get(small).state == "done":
            break
    assert shop.uploads.get(small).state == "done"
    assert shop.uploads.get(big).state == "running"
    assert "queued" in shop.states(upload_id=big).values()
    embeds = shop.waiting(EmbedJob)
    assert len(embeds) <= flow.EMBED_JOBS_PER_DEVICE


def test_parsing_does_not_run_far_ahead(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While so many files of an upload wait for their vectors, its other files wait unparsed; others are parsed."""
    monkeypatch.setattr(flow, "BACKLOG_FILES_MAX", 20)
    shop.add(files(200, "big"))
    shop.run_all(ParseJob)
    parsed = sum(state == "embedding" for state in shop.states().values())
    assert 20 <= parsed < 200
    shop.add(files(2, "small"))
    assert shop.run_all(ParseJob) == 1
    shop.run_all()
    assert set(shop.states().values()) == {"indexed"}


def test_a_file_that_cannot_be_read_fails_alone_and_can_be_tried_again(shop: Workshop) -> None:
    """The reason stands on the file; its neighbours are indexed; a retry works once the cause is gone."""
    upload_id = shop.add(files(5) | {"empty.txt": "", "bad.txt": "!bad", "picture.bin": b"\xff\xfe\x00"})
    shop.run_all()
    failed = {document.name: document for document in shop.documents(state="failed")}
    assert {name: document.reason_code for name, document in failed.items()} == {
        "bad.txt": "corrupt",
        "empty.txt": "empty",
        "picture.bin": "unsupported",
    }
    assert all(document.reason for document in failed.values())
    assert sum(state == "indexed" for state in shop.states().values()) == 5
    assert shop.uploads.get(upload_id).state == "done"
    shop.originals.path(failed["bad.txt"].sha256 or "").write_text("mended")
    shop.uploads.retry(upload_id)
    shop.run_all()
    assert shop.states()["bad.txt"] == "indexed"
    assert shop.states()["empty.txt"] == "failed"


def test_a_batch_that_died_is_tried_file_by_file(shop: Workshop) -> None:
    """Only the file that kills its worker fails, with a reason; those that travelled with it are indexed."""
    shop.add(files(6) | {"poison.txt": "poison"})
    for _ in range(20):
        waiting = shop.waiting()
        if not waiting:
            break
        for record in waiting:
            poisoned = [d.name for d in shop.documents() if d.name == "poison.txt" and _job(shop, d.id) == record.id]
            if poisoned and record.task == ParseJob.TASK and (len(ids_of(record)) == 1 or record.attempts == 0):
                shop.claim(record)
                kill(shop, "doomed")
            else:
                shop.run(record)
    states = shop.states()
    assert states.pop("poison.txt") == "failed"
    assert set(states.values()) == {"indexed"}
    failed = shop.documents(state="failed")[0]
    assert failed.reason_code == "lost"
    assert "doomed died" in (failed.reason or "")


def _job(shop: Workshop, document_id: str) -> str | None:
    with shop.database.read() as connection:
        return connection.execute(sa.select(documents.c.job_id).where(documents.c.id == document_id)).scalar()


def test_what_was_done_before_a_crash_is_not_done_again(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that were stored stay; the next attempt makes only those that are missing."""
    monkeypatch.setattr(stages, "EMBED_STORED_TOGETHER", 4)
    monkeypatch.setattr(stages, "EMBED_CALL_TEXTS_MAX", 4)
    shop.add(files(12))
    shop.run_all(ParseJob)
    embedded: list[str] = []
    engine = shop.engines["embed"]
    real = engine.embed_documents  # type: ignore[attr-defined]

    def dying(texts: list[str], cancel: threading.Event) -> object:
        if len(embedded) == 8:
            raise Killed
        embedded.extend(texts)
        return real(texts, cancel)

    monkeypatch.setattr(engine, "embed_documents", dying)
    (record,) = shop.waiting(EmbedJob)
    claim = shop.claim(record)
    with pytest.raises(Killed):
        stages.embed_documents(shop.context("embed"), claim, EmbedJob(document_ids=[]), shop.writer, shop.holds.last)
    monkeypatch.undo()
    monkeypatch.setattr(
        engine, "embed_documents", lambda texts, cancel: (embedded.extend(texts), real(texts, cancel))[1]
    )
    kill(shop, "doomed")
    shop.run_all()
    assert set(shop.states().values()) == {"indexed"}
    assert len(embedded) == len(set(embedded)) == 12


def test_a_fenced_off_worker_writes_nothing(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen in the middle of a file and taken for dead: what it says when it wakes up is not written."""
    shop.add(files(1))
    (record,) = shop.waiting(ParseJob)
    engine = shop.engines["index"]
    real = engine.parse  # type: ignore[attr-defined]

    def frozen(*arguments: object) -> object:
        monkeypatch.setattr(engine, "parse", real)
        shop.ledger.release_owner("frozen")
        assert shop.run(shop.ledger.get(record.id), "other").state == "done"
        with shop.database.write() as connection:
            connection.execute(chunks.update().values(text="by the other"))
        return real(*arguments)

    monkeypatch.setattr(engine, "parse", frozen)
    shop.run(record, "frozen")
    assert list(shop.states().values()) == ["embedding"]
    with shop.database.read() as connection:
        assert connection.execute(sa.select(chunks.c.text)).scalars().all() == ["by the other"]


def test_a_device_that_fails_for_good_fails_the_file_with_its_words(shop: Workshop) -> None:
    """`!fail` in one of three files: the batch is retried, split, and the guilty file says what the device said."""
    shop.add(files(2) | {"fail.txt": "!fail of the device"})
    deadline = time.monotonic() + 20
    with shop.database.write() as connection:
        connection.execute(jobs.update().values(attempts_max=2))
    # the parser of the simulated device obeys, too: let it through
    engine = shop.engines["index"]
    shop.run_all(IndexJob)
    original = engine.parse  # type: ignore[attr-defined]

    def parse(path: Path, name: str, cancel: threading.Event) -> object:
        try:
            return original(path, name, cancel)
        except EngineError:
            from reef.knowledge.model import ParsedDocument

            return ParsedDocument(text=path.read_text(), title=name)

    engine.parse = parse  # type: ignore[attr-defined]
    while shop.uploads.recent()[0].state != "done":
        assert time.monotonic() < deadline
        with shop.database.write() as connection:
            connection.execute(jobs.update().values(not_before=0.0))
        for record in shop.waiting():
            shop.run(record)
    failed = shop.documents(state="failed")
    assert [(document.name, document.reason_code) for document in failed] == [("fail.txt", "embedding")]
    assert "as it was told to" in (failed[0].reason or "")
    assert sum(state == "indexed" for state in shop.states().values()) == 2


def test_an_overdue_job_ends_its_files(shop: Workshop) -> None:
    """No file hangs for ever: a deadline that passes fails it with a reason."""
    shop.add(files(3))
    with shop.database.write() as connection:
        connection.execute(jobs.update().values(deadline_at=1.0))
    sweep(shop.ledger, lambda _job: None, lambda _pool: 0)
    shop.flow.look()
    assert set(shop.states().values()) == {"failed"}
    assert "deadline" in (shop.documents()[0].reason or "")


def test_the_same_file_twice_is_done_once(shop: Workshop) -> None:
    """Two uploads of the same bytes at once: one is worked on, the other shares its end, whatever it is."""
    shop.add({"a.txt": "the very same words", "bad.txt": "!bad"})
    shop.add({"b.txt": "the very same words", "worse.txt": "!bad"})
    shop.run_all()
    assert shop.states() == {"a.txt": "indexed", "b.txt": "indexed", "bad.txt": "failed", "worse.txt": "failed"}
    a, b = (shop.documents(text=name)[0] for name in ("a.txt", "b.txt"))
    assert ask(shop, "the very same words") == ["a.txt"]
    assert (a.duplicate_of, b.duplicate_of) == (None, a.id)
    assert count(shop, chunks) == 1
    third = shop.add({"c.txt": "the very same words", "a.txt": "the very same words"})
    assert shop.states(upload_id=third) == {"a.txt": "indexed", "c.txt": "indexed"}
    assert shop.uploads.get(third).state == "done"
    assert not shop.waiting()


def test_many_uploads_of_the_same_bytes_at_the_same_moment(shop: Workshop) -> None:
    """Eight people send one file at once, and one of them deletes it: one copy is worked on, nobody waits for ever."""
    threads = [threading.Thread(target=shop.add, args=({f"{n}.txt": "the same words"},)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    originals = [document for document in shop.documents() if document.duplicate_of is None]
    assert len(originals) == 1
    documents_of.delete_document(shop.flow, originals[0].id)
    shop.run_all()
    assert list(shop.states().values()) == ["indexed"] * 7
    assert count(shop, chunks) == 1


def test_who_waits_for_one_that_is_gone_goes_on(shop: Workshop) -> None:
    """A duplicate whose original vanished without a word is worked on itself; one whose original is ready is ready."""
    shop.add({"a.txt": "the same words"})
    shop.add({"b.txt": "the same words"})
    with shop.database.write() as connection:
        connection.execute(documents.delete().where(documents.c.name == "a.txt"))
    shop.flow.advance()
    shop.run_all()
    assert shop.states() == {"b.txt": "indexed"}
    shop.add({"c.txt": "the same words"})
    with shop.database.write() as connection:
        connection.execute(documents.update().where(documents.c.name == "c.txt").values(state="queued"))
    shop.flow.advance()
    assert shop.states() == {"b.txt": "indexed", "c.txt": "indexed"}


def test_the_same_bytes_under_another_ending_are_tried(shop: Workshop) -> None:
    """What cannot be read as one format may be another: only files of the same ending share a failure."""
    engine = shop.engines["index"]
    real, tried = engine.parse, []  # type: ignore[attr-defined]

    def picky(path: Path, name: str, cancel: threading.Event) -> object:
        tried.append(name)
        if name.endswith(".pdf"):
            raise ParseFailed("corrupt", "This is no PDF.")
        return real(path, name, cancel)

    engine.parse = picky  # type: ignore[attr-defined]
    shop.add(dict.fromkeys(("a.pdf", "b.PDF", "c.txt", "d.txt"), "the very same words"))
    shop.run_all()
    assert shop.states() == {"a.pdf": "failed", "b.PDF": "failed", "c.txt": "indexed", "d.txt": "indexed"}
    assert tried == ["a.pdf", "c.txt"]


def test_a_duplicate_lives_on_when_its_original_goes(shop: Workshop) -> None:
    """Deleting what was worked on makes the other one worked on: what it says is still found."""
    shop.add({"a.txt": "unusual words about anemones"})
    shop.add({"b.txt": "unusual words about anemones"})
    shop.run_all()
    documents_of.delete_document(shop.flow, shop.documents(text="a.txt")[0].id)
    assert ask(shop, "anemones") == []
    shop.run_all()
    assert ask(shop, "anemones") == ["b.txt"]
    assert shop.states() == {"b.txt": "indexed"}
    assert count(shop, chunks) == 1


def test_a_newer_upload_of_a_name_takes_its_place(shop: Workshop) -> None:
    """The old text is found until the new one is, never both, and then it is gone from index and records."""
    shop.add({"guide.txt": "old words"})
    shop.run_all()
    shop.add({"guide.txt": "new words"})
    shop.run_all(ParseJob)
    shop.run_all(EmbedJob)
    assert len(ask(shop, "words")) == 1
    shop.run_all()
    assert [(d.state, d.chunk_count) for d in shop.documents()] == [("replaced", 0), ("indexed", 1)]
    assert ask(shop, "words") == ["guide.txt"]
    assert count(shop, chunks) == 1


def test_a_name_in_another_store_is_another_document(shop: Workshop) -> None:
    """The same name of two personas: nobody takes anybody's place, and neither sees the other's."""
    shop.add({"guide.txt": "words of alice"}, ("alice",))
    shop.add({"guide.txt": "words of bob"}, ("bob",))
    shop.run_all()
    assert len(ask(shop, "words", "alice")) == 1
    assert ask(shop, "words", "shared") == []
    document = shop.documents()[0]
    documents_of.set_stores(shop.flow, document.id, ["shared"])
    shop.run_all()
    assert ask(shop, "words", "shared") == ["guide.txt"]
    assert ask(shop, "words", "alice") == []


def test_cancel_ends_what_is_not_indexed(shop: Workshop) -> None:
    """Cancelled in the middle of a job: it writes nothing more for this upload; what was indexed stays."""
    first = shop.add({"early.txt": "early words"})
    shop.run_all()
    upload_id = shop.add(files(20))
    shop.run_all(ParseJob)
    shop.uploads.cancel(upload_id)
    shop.run_all()
    assert set(shop.states(upload_id=upload_id).values()) == {"cancelled"}
    assert shop.states(upload_id=first) == {"early.txt": "indexed"}
    assert count(shop, chunks) == 1
    with pytest.raises(UploadClosed):
        shop.uploads.resume(upload_id)


def test_pause_lets_others_pass_and_resume_goes_on(shop: Workshop) -> None:
    """A paused upload moves no further, wherever its files are; another one is done meanwhile."""
    slow = shop.add(files(50, "slow"))
    shop.run(shop.waiting(ParseJob)[0])
    shop.uploads.pause(slow)
    quick = shop.add(files(3, "quick"))
    shop.run_all()
    assert shop.uploads.get(quick).state == "done"
    before = shop.states(upload_id=slow)
    assert "indexed" not in before.values()
    assert set(before.values()) == {"queued", "embedding"}
    shop.uploads.resume(slow)
    shop.run_all()
    assert set(shop.states(upload_id=slow).values()) == {"indexed"}


def test_deleting_while_it_is_indexed(shop: Workshop) -> None:
    """Gone at each stage: the job that holds it writes nothing for it, and its bytes are garbage."""
    shop.add(files(6))
    gone = shop.documents()
    documents_of.delete_document(shop.flow, gone[0].id)
    shop.run_all(ParseJob)
    documents_of.delete_document(shop.flow, gone[1].id)
    shop.run_all(EmbedJob)
    documents_of.delete_document(shop.flow, gone[2].id)
    real = shop.index.put

    def put(ids: list[str], progressed: object) -> None:
        documents_of.delete_document(shop.flow, gone[3].id)
        real(ids, progressed)  # type: ignore[arg-type]

    shop.index.put = put  # type: ignore[method-assign, assignment]
    shop.run(shop.waiting(IndexJob)[0])
    shop.index.put = real  # type: ignore[method-assign]
    shop.run_all()
    assert shop.states() == {"f004.txt": "indexed", "f005.txt": "indexed"}
    with shop.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(documents)).scalar() == 2
    assert count(shop, chunks) == 2


def test_an_index_that_is_away_costs_no_file(shop: Workshop) -> None:
    """The index job is tried again; files wait as `indexing` meanwhile."""
    shop.add(files(3))
    shop.run_all(ParseJob)
    shop.run_all(EmbedJob)
    real = shop.index.put

    def away(_ids: list[str], _progressed: object) -> None:
        raise EngineError("the index does not answer")

    shop.index.put = away  # type: ignore[method-assign, assignment]
    for _ in range(4):
        with shop.database.write() as connection:
            connection.execute(jobs.update().values(not_before=0.0))
        shop.run(shop.waiting(IndexJob)[0])
    assert set(shop.states().values()) == {"indexing"}
    shop.index.put = real  # type: ignore[method-assign]
    with shop.database.write() as connection:
        connection.execute(jobs.update().values(not_before=0.0))
    shop.run_all()
    assert set(shop.states().values()) == {"indexed"}


def test_a_worker_that_stops_hands_its_batch_back(shop: Workshop) -> None:
    """Drained in the middle: the attempt does not count, and the rest is done by the next worker."""
    shop.add(files(5))
    (record,) = shop.waiting(ParseJob)
    engine = shop.engines["index"]
    real = engine.parse  # type: ignore[attr-defined]
    seen: list[str] = []

    def parse(path: Path, name: str, cancel: threading.Event) -> object:
        seen.append(name)
        if len(seen) == 3:
            shop.holds.last.reason = "drain"
            cancel.set()
            raise Cancelled
        return real(path, name, cancel)

    engine.parse = parse  # type: ignore[attr-defined]
    after = shop.run(record)
    assert (after.state, after.attempts) == ("queued", 0)
    assert sorted(shop.states().values()) == ["embedding"] * 2 + ["parsing"] * 3
    shop.run_all()
    assert set(shop.states().values()) == {"indexed"}
    assert len(seen) == 6


def test_many_processes_may_advance_at_once(shop: Workshop) -> None:
    """Eight threads: every file is in exactly one job and the limit of jobs in flight holds."""
    shop.uploads.pause(upload_id := shop.add(files(300)))
    with shop.database.write() as connection:
        connection.execute(jobs.delete())
        connection.execute(documents.update().values(state="queued", job_id=None))
    with shop.database.write() as connection:
        from reef.records.tables import uploads

        connection.execute(uploads.update().where(uploads.c.id == upload_id).values(state="running"))
    threads = [threading.Thread(target=shop.flow.advance) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting = shop.waiting(ParseJob)
    ids = [one for record in waiting for one in ids_of(record)]
    assert len(waiting) == flow.PARSE_JOBS_PER_STREAM * 2
    assert len(ids) == len(set(ids))


def test_limits_of_an_upload_are_told(shop: Workshop) -> None:
    """One file too many is refused before it is stored."""
    shop.uploads.limits = msgspec.structs.replace(shop.uploads.limits, files_max=3)
    with pytest.raises(UploadFull, match="3 files"):
        shop.add(files(4))
    assert shop.documents() == []


def test_garbage_is_collected_and_what_is_needed_stays(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Originals without a row go, those with one stay, also where two rows share one."""
    from reef.knowledge import originals

    shop.add({"a.txt": "kept words"})
    shop.add({"b.txt": "kept words", "c.txt": "other words"})
    shop.run_all()
    monkeypatch.setattr(originals, "GARBAGE_AGE_S", -1.0)
    assert shop.originals.collect(shop.database) == 0
    for document in shop.documents():
        if document.name in ("a.txt", "c.txt"):
            documents_of.delete_document(shop.flow, document.id)
    shop.run_all()
    assert shop.originals.collect(shop.database) == 1
    (left,) = shop.documents()
    assert shop.originals.path(left.sha256 or "").read_text() == "kept words"


def test_bytes_that_never_come_are_given_up(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-received file fails with a reason, and its upload is closed."""
    upload = shop.uploads.create("slow", ["shared"])
    shop.uploads.begin_file(upload.id, "slow.txt", 100)
    monkeypatch.setattr(flow, "RECEIVING_KEPT_S", -1.0)
    monkeypatch.setattr(flow, "OPEN_KEPT_S", -1.0)
    shop.flow.give_up_late()
    (document,) = shop.documents()
    assert (document.state, document.reason_code) == ("failed", "lost")
    assert shop.uploads.get(upload.id).state == "done"


def test_documents_are_listed_by_kind_and_by_groups_of_states(shop: Workshop) -> None:
    """A kind is told by the extension; `working` are those on their way, `current` those that nothing replaced."""
    shop.add({"a/one.PDF": "first", "two.csv": "second", "three.txt": "third"})
    assert list(shop.states(kind="pdf")) == ["a/one.PDF"]
    assert list(shop.states(kind="sheets")) == ["two.csv"]
    assert shop.states(kind="archive") == {}
    assert len(shop.documents(state="working")) == 3
    shop.run_all()
    assert shop.documents(state="working") == []
    shop.add({"two.csv": "newer"})
    shop.run_all()
    assert len(shop.documents()) == 4
    assert sorted(shop.states(state="current")) == ["a/one.PDF", "three.txt", "two.csv"]
