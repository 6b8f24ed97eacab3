"""The awkward corpus through the running product: each file is indexed or refused in words, none stalls others."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from awkward_documents import CASES
from awkward_files import BOMB_LAYER, Case, tar_of, zip_of
from whole_product import SIMULATED_QUEUES, Reef, link_real_models, real_encoder, running_reef

from reef.knowledge.model import FAILURE_CODES
from reef.knowledge.parsing.limits import ParseLimits

ENDS_WITHIN_S = ParseLimits().time_s / 2
"""A single file that were read until its time is over would hold up all of them longer."""
UPLOADED_BYTES_MAX = 100_000_000
HAS_OCR = shutil.which("tesseract") is not None
QUEUES = (
    SIMULATED_QUEUES
    + """
  embed:
    queue: embed
    devices: [simulated]
    streams: 4
  index:
    queue: index
    devices: [cpu]
    streams: 2
    limits: {lease_s: 60}
"""
)
ARCHIVES = {
    "many.tar.gz": (tar_of({"a.md": b"# Tides\n\nspringtide", "b.bin": bytes(99), "c.zip": BOMB_LAYER}), "replaced"),
    "leads-out.zip": (zip_of({"../../etc/passwd": "evil", "good.txt": "good words"}), "replaced"),
    "bomb.zip": (zip_of({f"{n}.txt": bytes(10_000_000) for n in range(8)}), "too_large"),
    "cut.zip": (zip_of({"a.txt": "words " * 999})[:80], "corrupt"),
}
MEMBERS = {
    "many.tar.gz/a.md": "",
    "many.tar.gz/b.bin": "unsupported",
    "many.tar.gz/c.zip": "unsupported",
    "leads-out.zip/etc/passwd": "unsupported",
    "leads-out.zip/good.txt": "",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Case]:
    """What a person can upload of the corpus: regular files of a size that does not take minutes."""
    folder = tmp_path_factory.mktemp("corpus")
    for case in CASES:
        case.make(folder / case.name)
    made = {folder / case.name: case for case in CASES}
    return {
        path: case
        for path, case in made.items()
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= UPLOADED_BYTES_MAX
    }


def start(directory: Path) -> Any:
    """The product with its parser, cutting for the real embedding model, and a simulated device that embeds."""
    real_encoder()
    link_real_models(directory)
    return running_reef(directory, QUEUES)


def upload(reef: Reef, files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Documents by name, once the upload has come to its end."""
    with reef.client() as http:
        parts = [("file", (name, content)) for name, content in files.items()]
        upload_id = http.post("/api/v1/documents/upload", files=parts).raise_for_status().json()["upload_id"]
        deadline = time.monotonic() + ENDS_WITHIN_S
        while (now := http.get(f"/api/v1/uploads/{upload_id}").raise_for_status().json())["state"] != "done":
            assert time.monotonic() < deadline, now
            time.sleep(0.05)
        return listed(http, upload_id)


def listed(http: httpx.Client, upload_id: str) -> dict[str, dict[str, Any]]:
    """All documents of an upload by name."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        query = {"upload_id": upload_id, "limit": 100, "offset": len(found)}
        page = http.get("/api/v1/documents", params=query).raise_for_status().json()
        found |= {document["name"]: document for document in page["documents"]}
        if len(found) >= page["total"]:
            return found


def expected(case: Case) -> set[str]:
    """Its end: indexed, or one of these codes."""
    reads = bool(case.words or case.pages) and (not case.code or HAS_OCR)
    return {"indexed"} if reads else set(case.code.split("|"))


@pytest.mark.timeout(180)
def test_every_awkward_file_comes_to_its_end(corpus: dict[Path, Case], tmp_path: Path) -> None:
    """More than a hundred files at once, bombs among them: the expected end of each, with a sentence, and soon."""
    files = {case.name: path.read_bytes() for path, case in corpus.items()}
    with start(tmp_path) as reef:
        found = upload(reef, files | {name: data for name, (data, _) in ARCHIVES.items()})
    assert len(corpus) > 100
    assert found.keys() == files.keys() | ARCHIVES.keys() | MEMBERS.keys()
    for document in found.values():
        assert document["state"] in ("indexed", "failed", "replaced")
        assert (document["state"] == "failed") == (document["reason_code"] in FAILURE_CODES)
        assert bool(document["reason"]) == (document["state"] != "indexed")
        assert document["state"] != "indexed" or document["chunk_count"] or document["duplicate_of"]
    ends = {name: one["reason_code"] or one["state"] for name, one in found.items()}
    own = [case for case in corpus.values() if found[case.name]["duplicate_of"] is None]
    wrong = {case.name: ends[case.name] for case in own if ends[case.name] not in expected(case)}
    assert wrong == {}
    assert {name: ends[name] for name in ARCHIVES} == {name: end for name, (_, end) in ARCHIVES.items()}
    assert {name: ends[name] for name in MEMBERS} == {name: code or "indexed" for name, code in MEMBERS.items()}
