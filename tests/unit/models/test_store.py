"""Finding, fetching and checking the models of a data directory."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from model_files import BadServer

import reef.models.fetch as fetch_module
from reef.models import CatalogueEntry, ModelError, ModelMissing, ModelStore
from reef.models.catalogue import Source

Make = Callable[..., bytes]


def entry(url: str, body: bytes | None = None, **fields: object) -> CatalogueEntry:
    """A catalogue entry for what a server serves."""
    values: dict[str, object] = {
        "name": "tiny",
        "title": "Tiny",
        "about": "",
        "licence": "MIT",
        "context": 2048,
        "sources": (Source(url=url),),
        "size_about_bytes": 1000,
        "demo": True,
    }
    if body is not None:
        values |= {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return CatalogueEntry(**(values | fields))  # type: ignore[arg-type]


def quiet(share: float, note: str) -> None:
    """No progress."""


def test_pull_then_resolve(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """A pulled model is found by its name, checked, and nothing but it is left in the directory."""
    bad_server.body = make_gguf(elements=1000)
    wanted = entry(bad_server.url, bad_server.body)
    store, told = ModelStore(tmp_path, {"tiny": wanted}), []
    with pytest.raises(ModelMissing, match="coral-reef models pull tiny"):
        store.resolve("tiny")
    model = store.pull("tiny", lambda share, note: told.append((share, note)))
    assert store.resolve("tiny") == model
    assert model.sha256 == wanted.sha256
    assert model.demo
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert told[-1] == (1.0, "tiny is here; its SHA-256 is the catalogue's.")
    assert sorted(path.name for path in store.folder.iterdir()) == [".checked", ".tiny.lock", "tiny.gguf"]
    assert [(state.name, state.path) for state in store.list()] == [("tiny", model.path)]


def test_hash_is_known_when_the_file_stands_there(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """Who lists the models in the moment when one comes has its hash, and does not make it forgotten."""
    bad_server.body = make_gguf(elements=1000)
    wanted = entry(bad_server.url, bad_server.body)
    store, other, seen = ModelStore(tmp_path, {"tiny": wanted}), ModelStore(tmp_path, {}), []

    def look(share: float, note: str) -> None:
        if (path := tmp_path / "models" / "tiny.gguf").is_file():
            other.facts(path)
            seen.append(other.known_sha256(path))

    store.pull("tiny", look)
    assert seen == [wanted.sha256]
    assert store.known_sha256(tmp_path / "models" / "tiny.gguf") == wanted.sha256


def test_wrong_bytes_are_thrown_away(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """A file of the right size and the wrong content is refused and deleted."""
    right = make_gguf(elements=1000)
    bad_server.body = right[:-1] + b"\2"
    store = ModelStore(tmp_path, {"tiny": entry(bad_server.url, right)})
    with pytest.raises(ModelError, match="not what it should be"):
        store.pull("tiny", quiet)
    assert not list(store.folder.glob("*tiny.gguf*"))
    assert not list(store.folder.glob(".tiny*.part*"))
    bad_server.body = right
    assert store.pull("tiny", quiet).size_bytes == len(right)


def test_second_source_helps_out(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """When the first place has nothing, the next one is asked."""
    bad_server.body, bad_server.status = make_gguf(), [404]
    sources = (Source(url=bad_server.url), Source(url=bad_server.url + "?again"))
    store = ModelStore(tmp_path, {"tiny": entry(bad_server.url, bad_server.body, sources=sources)})
    assert store.pull("tiny", quiet).name == "tiny"


@pytest.mark.parametrize("stated", [True, False])
def test_without_a_hash_the_user_is_told(bad_server: BadServer, tmp_path: Path, make_gguf: Make, stated: bool) -> None:
    """Where the catalogue has no hash, the last sentence says what was compared with what, or that nothing was."""
    bad_server.body, told = make_gguf(), []
    if stated:
        bad_server.headers = {"X-Linked-ETag": f'"{hashlib.sha256(bad_server.body).hexdigest()}"'}
    store = ModelStore(tmp_path, {"tiny": entry(bad_server.url)})
    store.pull("tiny", lambda share, note: told.append(note))
    assert ("what the server states" in told[-1]) is stated
    assert ("NOT checked" in told[-1]) is not stated


def test_a_hash_the_server_states_is_checked(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """A hub's own statement about its file is held against what arrived."""
    bad_server.body = make_gguf()
    bad_server.headers = {"X-Linked-ETag": f'"{"0" * 64}"'}
    with pytest.raises(ModelError, match="not what it should be"):
        ModelStore(tmp_path, {"tiny": entry(bad_server.url)}).pull("tiny", quiet)


def test_url_is_pulled_under_its_file_name(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """Any address of a .gguf file can be pulled; its name comes from the address."""
    bad_server.body = make_gguf()
    store = ModelStore(tmp_path, {})
    model = store.pull(bad_server.url.replace("tiny", "My%20Model"), quiet)
    assert model.name == "my-20model"
    assert store.resolve("my-20model").path == model.path
    assert [state.name for state in store.list()] == ["my-20model"]


def test_path_of_ones_own(gguf_file: Path, tmp_path: Path) -> None:
    """A file anywhere is used where it lies, and its hash is not computed twice."""
    store = ModelStore(tmp_path / "data")
    model = store.resolve(str(gguf_file))
    assert (model.name, model.path, model.demo) == ("own", gguf_file, False)
    memo = next((store.folder / ".checked").iterdir())
    memo.write_bytes(memo.read_bytes().replace(model.sha256[:8].encode(), b"feedfeed"))
    assert store.resolve(str(gguf_file)).sha256.startswith("feedfeed")
    gguf_file.write_bytes(gguf_file.read_bytes() + b"\0")
    assert not store.resolve(str(gguf_file)).sha256.startswith("feedfeed")


def test_names_that_nobody_has(tmp_path: Path) -> None:
    """An unknown name offers the nearest one; a path that is not there says so; a bad file is refused."""
    store = ModelStore(tmp_path)
    with pytest.raises(ModelMissing, match="Did you mean smollm2-135m-instruct"):
        store.resolve("smolm2-135m-instruct")
    with pytest.raises(ModelMissing, match="models list"):
        store.pull("zzz", quiet)
    with pytest.raises(ModelMissing, match="no model file"):
        store.resolve("./absent.gguf")
    (tmp_path / "bad.gguf").write_text("hello")
    with pytest.raises(ModelError, match="not a model"):
        store.resolve(str(tmp_path / "bad.gguf"))


def test_full_disk_is_noticed_before(
    bad_server: BadServer, tmp_path: Path, make_gguf: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched where there is no room for it."""
    bad_server.body = make_gguf()
    monkeypatch.setattr(fetch_module, "free_bytes", lambda folder: 150_000_000)
    with pytest.raises(ModelError, match="No room for tiny: 150 MB are free"):
        ModelStore(tmp_path, {"tiny": entry(bad_server.url, bad_server.body)}).pull("tiny", quiet)
    assert not bad_server.ranges


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A data directory that is a file is named, with the setting that changes it."""
    (tmp_path / "data").write_text("")
    with pytest.raises(ModelError, match="REEF_DATA_DIR"):
        ModelStore(tmp_path / "data").pull("smollm2-135m-instruct", quiet)


def _pull(folder: Path, wanted: CatalogueEntry, answers: multiprocessing.Queue[str]) -> None:
    answers.put(ModelStore(folder, {"tiny": wanted}).pull("tiny", quiet).sha256)


def test_two_processes_fetch_it_once(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """Two processes that want the same model at once: one fetches, the other waits and finds it."""
    bad_server.body = make_gguf(elements=1000)
    wanted = entry(bad_server.url, bad_server.body)
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    pullers = [context.Process(target=_pull, args=(tmp_path, wanted, answers)) for _ in range(2)]
    for puller in pullers:
        puller.start()
    hashes = {answers.get(timeout=60) for _ in pullers}
    for puller in pullers:
        puller.join()
    assert hashes == {wanted.sha256}
    assert len(bad_server.ranges) == 1


def test_waiting_for_another_is_told(bad_server: BadServer, tmp_path: Path, make_gguf: Make) -> None:
    """While another process holds the lock, the progress says what is being waited for."""
    bad_server.body = make_gguf()
    store, waiting = ModelStore(tmp_path, {"tiny": entry(bad_server.url, bad_server.body)}), threading.Event()
    store.folder.mkdir()

    def progress(share: float, note: str) -> None:
        if "Another process" in note:
            waiting.set()

    with (store.folder / ".tiny.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        puller = threading.Thread(target=store.pull, args=("tiny", progress))
        puller.start()
        assert waiting.wait(10)
        assert not bad_server.ranges
    puller.join(30)
    assert store.resolve("tiny").name == "tiny"
