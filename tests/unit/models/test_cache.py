"""The disk cache of models: who goes, who stays, and what is said when nobody may go; files of other formats."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from model_files import BadServer, gguf_bytes
from tiny_networks import dense_tflite

import reef.models.cache as cache_module
from reef.models import ModelError, ModelMissing, ModelStore
from reef.models.cache import ModelCache, Removed, reasons
from reef.models.errors import ModelInUse

Make = Callable[..., bytes]


def quiet(share: float, note: str) -> None:
    """No progress."""


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Three models of 40 kB, used one after the other, oldest last in the alphabet."""
    store = ModelStore(tmp_path, {})
    store.folder.mkdir()
    for name in ("c", "b", "a"):
        (store.folder / f"{name}.gguf").write_bytes(gguf_bytes(elements=10_000))
    return store


USED = {"c": 1.0, "b": 2.0, "a": 3.0}


def held(store: ModelStore) -> int:
    return sum(path.stat().st_size for path in store.files().values())


def test_the_longest_unused_goes_first(store: ModelStore) -> None:
    """As many as needed go, in the order of their last use, and it is said which."""
    removed = ModelCache(store, held(store)).make_room(50_000, {}, USED)
    assert [one.name for one in removed] == ["c", "b"]
    assert sum(one.size_bytes for one in removed) > 50_000
    assert list(store.files()) == ["a"]


def test_nothing_goes_where_there_is_room(store: ModelStore) -> None:
    """Below the limit, and without a limit, every model stays."""
    assert ModelCache(store, held(store) + 1000).make_room(900, {}, USED) == []
    assert ModelCache(store, 0).make_room(10_000_000, {}, USED) == []


def begin(store: ModelStore, name: str, size: int, changed_at: float) -> Path:
    """What a stopped download leaves."""
    part = store.parts.path(name, "url", ".gguf")
    part.write_bytes(bytes(size))
    part.with_name(part.name + ".json").write_text(json.dumps({"url": "http://x/y.gguf", "size_bytes": 2 * size}))
    os.utime(part, (changed_at, changed_at))
    return part


def test_beginnings_are_counted_and_go_first(store: ModelStore) -> None:
    """What nobody fetches any more makes room before any whole model does, the oldest first; what is just being fetched
    stays, and so does everything while there is room."""
    for name, at in (("new", 300.0), ("old", 200.0), ("busy", 100.0)):
        begin(store, name, 30_000, at)
    assert ModelCache(store, held(store) + 100_000).make_room(9_000, {}, USED) == []
    with store.parts.lock("busy"):
        assert store.parts.all()["busy"].busy
        removed = ModelCache(store, held(store) + 90_000).make_room(50_000, {}, USED)
        assert [(one.name, one.partial) for one in removed] == [("old", True), ("new", True)]
        removed = ModelCache(store, held(store)).make_room(0, {}, USED)
        assert [(one.name, one.partial) for one in removed] == [("c", False)]
        with pytest.raises(ModelInUse, match="busy is being fetched by another process"):
            store.remove("busy")
    assert store.parts.all()["busy"].have_bytes == 30_000
    (scratch := store.folder / ".busy.wheels.part.gguf.fetch-x").mkdir()
    assert store.remove("busy") == 30_000
    assert not scratch.exists()
    assert store.parts.all() == {}
    with pytest.raises(ModelMissing):
        store.remove("busy")


def test_what_is_needed_stays(store: ModelStore) -> None:
    """Loaded, placed, pinned and named models never go, however long they were not used."""
    kept = reasons(loaded=["c"], placed=[], pinned=["b"], named=[])
    assert [one.name for one in ModelCache(store, held(store)).make_room(1000, kept, USED)] == ["a"]
    kept = reasons(loaded=["c"], placed=["x"], pinned=["b"], named=["c"])
    with pytest.raises(ModelError, match=r"b is pinned; c is in a device's memory.*Unload or unpin one"):
        ModelCache(store, held(store)).make_room(1000, kept, USED)
    assert list(store.files()) == ["b", "c"]


def test_nothing_goes_in_vain(store: ModelStore) -> None:
    """Where all that may go is not enough, nothing goes."""
    with pytest.raises(ModelError, match=r"REEF_MODEL_CACHE_BYTES is 0 MB"):
        ModelCache(store, held(store)).make_room(1_000_000, {"a": "is pinned"}, USED)
    assert len(store.files()) == 3


def test_a_full_disk_counts_too(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit, models go when the disk has no room for the next one."""
    monkeypatch.setattr(cache_module, "free_bytes", lambda folder: 200_000_000)
    assert [one.name for one in ModelCache(store, 0).make_room(30_000, {}, USED)] == ["c"]


def test_room_is_made_while_a_model_comes(bad_server: BadServer, store: ModelStore, make_gguf: Make) -> None:
    """The size is known when the server answers: then the others go, and who went is told."""
    bad_server.body, removed = make_gguf(elements=15_000), list[Removed]()
    cache = ModelCache(store, held(store))
    make_room = cache.room_maker(dict, lambda: USED, removed.append)
    assert store.pull(bad_server.url, quiet, make_room=make_room).name == "tiny"
    assert [one.name for one in removed] == ["c", "b"]
    assert sorted(store.files()) == ["a", "tiny"]


def test_no_room_leaves_everything_as_it_was(bad_server: BadServer, store: ModelStore, make_gguf: Make) -> None:
    """A model for which no room can be made is refused before its first byte is written."""
    bad_server.body = make_gguf(elements=15_000)
    make_room = ModelCache(store, held(store)).room_maker(
        lambda: dict.fromkeys("abc", "is pinned"), lambda: USED, lambda one: None
    )
    with pytest.raises(ModelError, match="No room for 0 MB more"):
        store.pull(bad_server.url, quiet, make_room=make_room)
    assert sorted(store.files()) == ["a", "b", "c"]
    assert not list(store.folder.glob(".*.part*"))


def test_a_disk_that_fills_up_meanwhile(bad_server: BadServer, store: ModelStore, make_gguf: Make) -> None:
    """A real "no space left" while writing: a sentence, nothing left behind, the others untouched."""
    bad_server.body = make_gguf(elements=100_000)
    part = store.folder / ".tiny.url.part.gguf"
    part.symlink_to("/dev/full")
    part.with_name(part.name + ".json").write_text(json.dumps({"url": bad_server.url, "etag": bad_server.etag}))
    with pytest.raises(ModelError, match=r"the disk is full.*models remove"):
        store.pull(bad_server.url, quiet)
    assert not os.path.lexists(part)
    assert sorted(store.files()) == ["a", "b", "c"]


def test_tflite_by_address(bad_server: BadServer, tmp_path: Path) -> None:
    """A .tflite file is fetched with resume, checked and found by its name; a .gguf in its place is refused."""
    store = ModelStore(tmp_path, {})
    bad_server.body, bad_server.cut_after = dense_tflite(), [5000]
    url = bad_server.url.replace(".gguf", ".tflite")
    sha256 = hashlib.sha256(bad_server.body).hexdigest()
    model = store.pull("sees-fish", quiet, url=url, sha256=sha256)
    assert (model.format, model.path.name, model.sha256) == ("tflite", "sees-fish.tflite", sha256)
    assert bad_server.ranges == [None, "bytes=5000-"]
    assert store.resolve("sees-fish") == model
    bad_server.body = gguf_bytes()
    with pytest.raises(ModelError, match="not a model in TFLite format"):
        store.pull("other", quiet, url=url)
    with pytest.raises(ModelError, match="expected aaaa"):
        store.pull("other", quiet, url=bad_server.url, sha256="a" * 64)
    with pytest.raises(ModelError, match="it is another file"):
        store.pull("sees-fish", quiet, url=url, sha256="a" * 64)
    assert list(store.files()) == ["sees-fish"]


def test_taking_a_file(tmp_path: Path) -> None:
    """A file of this machine: copied or linked, checked, twice is as good as once, another of its name is refused."""
    store = ModelStore(tmp_path / "data", {})
    own = tmp_path / "My Model.gguf"
    own.write_bytes(gguf_bytes())
    with pytest.raises(ModelError, match="not what it should be"):
        store.take_file(own, quiet, sha256="0" * 64)
    copied = store.take_file(own, quiet)
    linked = store.take_file(own, quiet, name="linked", link=True)
    assert (copied.name, linked.name) == ("my-model", "linked")
    assert copied.path.stat().st_ino != own.stat().st_ino == linked.path.stat().st_ino
    assert store.take_file(own, quiet) == copied
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_bytes(elements=65))
    with pytest.raises(ModelError, match="another model called linked"):
        store.take_file(other, quiet, name="linked")
    (tmp_path / "bad.tflite").write_text("hello")
    for path, says in ((tmp_path / "bad.tflite", "not a model"), (tmp_path / "no.gguf", "no file of a model")):
        with pytest.raises(ModelError, match=says):
            store.take_file(path, quiet)
    with pytest.raises(ModelError, match="cannot be a model's name"):
        store.take_file(own, quiet, name="../up")
    assert sorted(store.files()) == ["linked", "my-model"]
    assert store.remove("linked") == own.stat().st_size
    with pytest.raises(ModelMissing):
        store.remove("linked")
    assert own.is_file()
