"""Files of one name: of one upload they stay apart, of a later one they take the place of what was there."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest
from workshop import Workshop, ask

from reef.knowledge import documents as documents_of
from reef.knowledge import originals
from reef.knowledge.documents import UnknownDocument
from reef.knowledge.names import SAME_NAME_MAX, BadName, distinct_name
from reef.knowledge.originals import Kept
from reef.knowledge.progress import measure


def kept(shop: Workshop, text: str) -> Kept:
    with shop.originals.receive("incoming", bytes_max=1000) as incoming:
        incoming.write(text.encode())
    return shop.originals.keep("incoming")


def replaced(shop: Workshop, upload_id: str) -> int:
    with shop.database.read() as connection:
        counts = measure(connection, upload_id, 0.0)
    assert counts is not None
    return counts.replaced


def test_files_of_one_name_in_one_upload_stay_apart(shop: Workshop) -> None:
    """The second gets a name of its own, the same bytes again share the first one's; nothing is replaced."""
    upload = shop.uploads.create("two", ["shared"])
    one, other = kept(shop, "words of the first"), kept(shop, "words of the second")
    added = shop.uploads.add_kept(upload.id, [("a/notes.txt", one), ("a/notes.txt", other), ("a/notes.txt", one)])
    assert [file.name for file in added] == ["a/notes.txt", "a/notes (2).txt", "a/notes.txt"]
    begun = shop.uploads.begin_file(upload.id, "a/notes.txt", 5)
    assert documents_of.get_document(shop.flow, begun).name == "a/notes (3).txt"
    shop.run_all()
    assert sorted(ask(shop, "words")) == ["a/notes (2).txt", "a/notes.txt"]
    assert replaced(shop, upload.id) == 0


def test_files_of_one_name_in_one_archive_stay_apart(shop: Workshop) -> None:
    """A zip may have an entry of one name twice."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "words of the first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.txt", "words of the second")
    shop.add({"all.zip": packed.getvalue()})
    shop.run_all()
    assert shop.states() == {"all.zip": "replaced", "all.zip/a.txt": "indexed", "all.zip/a (2).txt": "indexed"}


def test_names_are_made_within_their_limits() -> None:
    """The ending stays, however long the name; what cannot end is refused."""
    assert distinct_name("x.tar.gz", {"x.tar.gz"}) == "x (2).tar.gz"
    assert distinct_name("Makefile", {"Makefile", "Makefile (2)"}) == "Makefile (3)"
    long = "n" * 496 + ".txt"
    assert distinct_name(long, {long}) == "n" * 492 + " (2).txt"
    with pytest.raises(BadName, match="one name"):
        distinct_name("a", {"a", *(f"a ({number})" for number in range(2, SAME_NAME_MAX + 1))})


def test_what_was_replaced_lets_its_original_go_and_names_its_successor(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stays for old citations; the bytes cannot be had any more, and leave the disk."""
    shop.add({"guide.txt": "old words"})
    shop.run_all()
    (old,) = shop.documents()
    upload_id = shop.add({"guide.txt": "new words", "other.txt": "more words"})
    shop.run_all()
    assert replaced(shop, upload_id) == 1
    (new,) = shop.documents(state="indexed", text="guide")
    told = documents_of.get_document(shop.flow, old.id)
    assert (told.state, told.sha256, told.successor) == ("replaced", None, new.id)
    with pytest.raises(UnknownDocument):
        documents_of.original_of(shop.flow, old.id)
    monkeypatch.setattr(originals, "GARBAGE_AGE_S", -1.0)
    assert shop.originals.collect(shop.database) == 1
    assert not shop.originals.path(old.sha256 or "").exists()
    documents_of.delete_document(shop.flow, new.id)
    shop.run_all()
    assert documents_of.get_document(shop.flow, old.id).successor is None


def test_an_unpacked_archive_takes_no_room(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are kept as files of their own."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "words")
    shop.add({"all.zip": packed.getvalue()})
    shop.run_all()
    monkeypatch.setattr(originals, "GARBAGE_AGE_S", -1.0)
    assert shop.originals.collect(shop.database) == 1
    (inside,) = shop.documents(state="indexed")
    assert documents_of.original_of(shop.flow, inside.id)[1].read_bytes() == b"words"
