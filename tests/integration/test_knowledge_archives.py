"""Archives on their way through the flow, on both databases: what becomes of them and of the files in them."""

from __future__ import annotations

import os
from typing import Any

import pytest
from awkward_files import tar_of, zip_of
from workshop import Killed, Workshop, ask, ids_of, kill

from reef.contracts.jobs import ParseJob
from reef.knowledge import members, originals, stages


def reasons(shop: Workshop) -> dict[str, tuple[str, str]]:
    """Code and sentence of the files that failed."""
    return {one.name: (one.reason_code or "", one.reason or "") for one in shop.documents(state="failed")}


def test_an_archive_is_its_files(shop: Workshop) -> None:
    """A zip and a .tar.gz: each file is a document named by its path; hidden ones are left out."""
    inside: dict[str, bytes | str] = {"docs/a.txt": "first words", "docs/.hidden": "no words", "b.txt": "second words"}
    upload_id = shop.add({"all.zip": zip_of(inside), "old.tar.gz": tar_of({"c/d.txt": b"third words"})})
    shop.run_all()
    assert shop.states() == {
        "all.zip": "replaced",
        "all.zip/docs/a.txt": "indexed",
        "all.zip/b.txt": "indexed",
        "old.tar.gz": "replaced",
        "old.tar.gz/c/d.txt": "indexed",
    }
    assert shop.uploads.get(upload_id).state == "done"
    assert ask(shop, "third words")[0] == "old.tar.gz/c/d.txt"
    assert not list((shop.originals.root / "incoming").iterdir())


def test_a_bad_member_fails_beside_its_neighbours(shop: Workshop) -> None:
    """A name that leads out, an archive in the archive, a member that cannot be read: failed each with its reason."""
    inside: dict[str, bytes | str] = {
        "../../etc/passwd": "evil", "inner.zip": zip_of({"deep.txt": "deep words"}), "bad.txt": "!bad",
        "/".join("d" * 70): "too deep", "good.txt": "good words",
    }  # fmt: skip
    upload_id = shop.add({"all.zip": zip_of(inside)})
    shop.run_all()
    states = shop.states()
    assert (states.pop("all.zip"), states.pop("all.zip/good.txt")) == ("replaced", "indexed")
    assert set(states.values()) == {"failed"}
    assert all(len(name.split("/")) <= 65 and ".." not in name for name in states)
    found = reasons(shop)
    assert found["all.zip/etc/passwd"][0] == "unsupported"
    assert "leads out of the archive" in found["all.zip/etc/passwd"][1]
    assert found["all.zip/inner.zip"][0] == "unsupported"
    assert "archive inside an archive" in found["all.zip/inner.zip"][1]
    assert found["all.zip/bad.txt"][0] == "corrupt"
    assert shop.uploads.get(upload_id).state == "done"
    bytes_of_bad = shop.originals.path(shop.documents(text="bad.txt")[0].sha256 or "")
    bytes_of_bad.write_text("mended words")
    shop.uploads.retry(upload_id)
    shop.run_all()
    assert shop.states() | {"all.zip/bad.txt": "failed"} == states | {
        "all.zip": "replaced", "all.zip/good.txt": "indexed"
    }  # fmt: skip
    assert shop.states()["all.zip/bad.txt"] == "indexed"


def test_an_archive_at_fault_fails_itself(shop: Workshop) -> None:
    """Password, bomb, damage at the end, nothing inside, no room on the disk: its own row says so, and none comes."""
    locked = bytearray(zip_of({"a.txt": "words"}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    half = tar_of({"a.txt": b"words", "b.bin": os.urandom(100_000)})
    shop.add({
        "locked.zip": bytes(locked), "bomb.zip": zip_of({"zeros": bytes(30_000_000)}), "half.tgz": half[:50_000],
        "broken.zip": b"PK\x03\x04 nothing", "empty.zip": zip_of({".hidden": "words"}), "note.txt": "some words",
    })  # fmt: skip
    shop.run_all()
    assert {name: code for name, (code, _) in reasons(shop).items()} == {
        "locked.zip": "encrypted",
        "bomb.zip": "too_large",
        "half.tgz": "corrupt",
        "broken.zip": "corrupt",
        "empty.zip": "empty",
    }
    assert shop.states()["note.txt"] == "indexed"
    shop.add({"more.zip": zip_of({"c.txt": "more words"})})
    shop.originals.reserve_bytes = 10**15
    shop.run_all()
    assert "no room" in reasons(shop)["more.zip"][1]
    assert not [name for name in shop.states() if "/" in name]
    assert not list((shop.originals.root / "incoming").iterdir())


def test_a_crash_in_an_archive_doubles_nothing(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when some of its members were taken in: the next attempt adds those that are missing, each once."""
    monkeypatch.setattr(members, "TAKEN_TOGETHER", 4)
    shop.add({"all.zip": zip_of({f"{n}.txt": f"words of file {n}" for n in range(10)})})
    (record,) = shop.waiting(ParseJob)
    claim = shop.claim(record)
    real, taken = members.take_in, []

    def dying(*arguments: Any) -> Any:
        if len(taken) == 2:
            raise Killed
        taken.append(arguments[2])
        return real(*arguments)

    monkeypatch.setattr(members, "take_in", dying)
    body = ParseJob(document_ids=ids_of(record))
    with pytest.raises(Killed):
        stages.parse_documents(shop.context("index"), claim, body, shop.writer, shop.holds.last)
    monkeypatch.setattr(members, "take_in", real)
    assert len(shop.documents()) == 1 + 8
    (shop.originals.root / "incoming" / "tmpkilled").mkdir()
    kill(shop, "doomed")
    shop.run_all()
    monkeypatch.setattr(originals, "WORKPLACE_AGE_S", -1.0)
    shop.originals.collect(shop.database)
    assert not list((shop.originals.root / "incoming").iterdir())
    states = shop.states()
    assert states.pop("all.zip") == "replaced"
    assert states == {f"all.zip/{n}.txt": "indexed" for n in range(10)}
    assert len(shop.documents()) == 11
