"""`coral-reef ingest` against a running reef."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from whole_product import KNOWLEDGE_QUEUES, Reef, running_reef

from cli import ingest as command
from cli.main import main
from cli.reef_uploads import UploadClient


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A running product whose simulated devices read and embed."""
    with running_reef(tmp_path_factory.mktemp("library"), KNOWLEDGE_QUEUES) as reef:
        yield reef


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them."""
    made = tmp_path / "papers"
    for name, text in {"a.txt": "first", "deep/b.txt": "second", ".git/config": "hidden", "deep/.c": "hidden"}.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(f"{text} words of {tmp_path.name}")
    return made


def ingest(reef: Reef, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["ingest", "--url", reef.url, "--data-dir", str(reef.data_dir), *arguments])


def names(reef: Reef, state: str = "indexed") -> set[str]:
    return {one["name"] for one in reef.get(f"/api/v1/documents?state={state}&limit=500")["documents"]}


def test_a_folder_is_indexed_and_hidden_files_are_not(library: Reef, folder: Path) -> None:
    """Recursively, under names that begin with the folder's; exit status 0 when all are indexed."""
    done = ingest(library, str(folder), "--persona", "alice")
    assert done.exit_code == 0, done.output
    assert {"papers/a.txt", "papers/deep/b.txt"} <= names(library)
    assert not [name for name in names(library) if "hidden" in name or ".git" in name]
    found = library.get("/api/v1/documents?query=papers/a.txt&store=alice")["documents"]
    assert ["alice"] in [document["stores"] for document in found]


def test_failed_files_are_told_with_their_reasons(library: Reef, folder: Path) -> None:
    """Exit status 1, each failed file with its reason."""
    (folder / "empty.txt").write_text("")
    done = ingest(library, str(folder), "--shared")
    assert done.exit_code == 1
    assert "papers/empty.txt: There is no text" in done.output
    assert "1 files failed" in done.output


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(library: Reef, folder: Path) -> None:
    """Its neighbours are taken, and it is listed with the limit and its size."""
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(100_000_001)
    done = ingest(library, str(folder), "--persona", "carol")
    assert done.exit_code == 1
    assert "papers/huge.txt: A document may have 100 MB. This one has 100 MB." in done.output
    assert "2 files uploaded" in done.output
    assert not [name for name in names(library, "failed") if "huge" in name]


def test_an_interrupted_upload_goes_on(library: Reef, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again sends what is missing, and of a file that was cut only the rest."""
    big = folder / "big.txt"
    big.write_text("many words of a big file " * 20_000)
    files = list(command.find_files([folder]))
    name = command._upload_name([folder])
    with UploadClient(library.url) as client:
        upload_id = client.create(name, ["bob"])
        client.send(client.begin(upload_id, files[0].name, files[0].size_bytes), files[0].path, 0)
        half = client.begin(upload_id, "papers/big.txt", big.stat().st_size)
        with library.client() as http:
            part = {
                "Tus-Resumable": "1.0.0",
                "Content-Type": "application/offset+octet-stream",
                "Upload-Offset": "0",
            }
            http.patch(f"/api/v1/uploads/files/{half}", content=big.read_bytes()[:1000], headers=part)
    sent: list[int] = []
    real = UploadClient.send

    def send(client: UploadClient, document_id: str, path: Path, offset: int) -> None:
        sent.append(offset)
        real(client, document_id, path, offset)

    monkeypatch.setattr(UploadClient, "send", send)
    done = ingest(library, str(folder), "--persona", "bob")
    assert done.exit_code == 0, done.output
    assert sorted(sent) == [0, 1000]
    documents = library.get(f"/api/v1/documents?upload_id={upload_id}")["documents"]
    assert {one["name"]: one["state"] for one in documents} == {
        "papers/a.txt": "indexed",
        "papers/big.txt": "indexed",
        "papers/deep/b.txt": "indexed",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Where do they belong?"),
        (["--persona", "nobody"], "no store 'nobody'"),
        (["--shared", "--url", "http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_what_is_wrong_is_told(library: Reef, folder: Path, arguments: list[str], says: str) -> None:
    """Exit status 1 and a sentence."""
    done = ingest(library, str(folder), *arguments)
    assert done.exit_code == 1
    assert says in done.output


def test_an_empty_folder_is_told(library: Reef, tmp_path: Path) -> None:
    """Nothing to do is not success."""
    done = ingest(library, str(tmp_path), "--shared")
    assert (done.exit_code, "no file" in done.output) == (1, True)
