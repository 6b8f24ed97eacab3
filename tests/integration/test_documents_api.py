"""Documents over HTTP and gRPC, with real workers on simulated devices: upload, watch, read, search, delete."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from grpc_server import Caller, calling, refused, run_documented
from websockets.sync.client import connect
from whole_product import KNOWLEDGE_QUEUES, Reef, StartReef, running_reef

from app.grpc_api.generated import coral_reef_pb2 as pb

TUS = {"Tus-Resumable": "1.0.0"}
FILES = "/api/v1/uploads/files"
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, pick_port: Callable[[], int]) -> Iterator[Reef]:
    """A running product whose simulated devices read and embed."""
    with running_reef(
        tmp_path_factory.mktemp("library"), KNOWLEDGE_QUEUES, upload_file_bytes_max=5_000_000, grpc_port=pick_port()
    ) as reef:
        yield reef


@pytest.fixture
def http(library: Reef) -> Iterator[httpx.Client]:
    with library.client() as client:
        yield client


def send(http: httpx.Client, files: dict[str, bytes | str], **fields: Any) -> dict[str, Any]:
    """Upload files in one request."""
    parts = [("file", (name, content, "text/plain")) for name, content in files.items()]
    answer = http.post("/api/v1/documents/upload", files=parts, data=fields)
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ended(http: httpx.Client, upload_id: str) -> dict[str, Any]:
    """The upload, once it is done."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        upload: dict[str, Any] = http.get(f"/api/v1/uploads/{upload_id}").json()
        if upload["state"] in ("done", "cancelled"):
            return upload
        assert time.monotonic() < deadline, upload
        time.sleep(0.05)


def search(http: httpx.Client, query: str, **fields: Any) -> list[dict[str, Any]]:
    answer = http.post("/api/v1/documents/query", json={"query": query, **fields})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def test_from_upload_to_answer(http: httpx.Client) -> None:
    """The way of the specification: upload, list, query with page and passage, delete; then it is not found."""
    accepted = send(http, {"tides.txt": "nothing here\fmoonlight pulls the tide"}, persona_id="alice")
    assert accepted["stores"] == ["alice"]
    upload = ended(http, accepted["upload_id"])
    assert upload["progress"]["files"] == {"indexed": 1}
    (document,) = http.get("/api/v1/documents", params={"query": "TIDES", "state": "indexed"}).json()["documents"]
    assert (document["name"], document["stores"], document["pages"]) == ("tides.txt", ["alice"], 2)
    best = search(http, "moonlight tide", persona_id="alice")[0]
    assert (best["document_id"], best["page_last"], best["name"]) == (document["id"], 2, "tides.txt")
    assert "moonlight" in best["text"]
    assert document["id"] not in {one["document_id"] for one in search(http, "moonlight tide", persona_id="bob")}
    path = f"/api/v1/documents/{document['id']}"
    (chunk,) = http.get(f"{path}/chunks").json()["chunks"]
    assert chunk["text"] == best["text"]
    assert http.delete(path).status_code == 204
    found = search(http, "moonlight tide", persona_id="alice")
    assert document["id"] not in {one["document_id"] for one in found}
    assert http.get(path).status_code == 404
    assert http.delete(path).status_code == 404


def test_many_files_of_a_folder_in_one_request(http: httpx.Client) -> None:
    """Relative paths are kept, whether in the file's name or in `paths`; the upload names every document."""
    names = {f"notes/{number}.txt": f"note number {number} of many" for number in range(120)}
    accepted = send(http, names, stores="shared,bob")
    assert [document["name"] for document in accepted["documents"]] == list(names)
    assert ended(http, accepted["upload_id"])["progress"]["files"] == {"indexed": 120}
    query = {"upload_id": accepted["upload_id"], "limit": 50, "offset": 100}
    page = http.get("/api/v1/documents", params=query).json()
    assert (len(page["documents"]), page["total"]) == (20, 120)
    accepted = send(http, {"a": "words of a", "b": "words of b"}, paths=["x/a.txt", "y/b.txt"])
    assert [document["name"] for document in accepted["documents"]] == ["x/a.txt", "y/b.txt"]
    ended(http, accepted["upload_id"])


def test_the_original_comes_back_as_a_download(http: httpx.Client) -> None:
    """Byte for byte, never in place, under its own name, whatever it pretends to be."""
    content = "<script>alert('café')</script>".encode()
    accepted = send(http, {"page ünï.html": content})
    ended(http, accepted["upload_id"])
    document_id = accepted["documents"][0]["document_id"]
    answer = http.get(f"/api/v1/documents/{document_id}/original")
    assert answer.content == content
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("files", "fields", "status", "code"),
    [
        ({}, {"stores": "shared"}, 400, "no_files"),
        ({"../up.txt": "x"}, {}, 400, "bad_name"),
        ({"a.txt": "x"}, {"stores": "nobody"}, 404, "unknown_store"),
        ({"a.txt": "x"}, {"upload_id": "nothing"}, 404, "unknown_upload"),
        ({"a.txt": "x"}, {"paths": ["one", "two"]}, 400, "bad_paths"),
        ({"big.txt": bytes(5_000_001)}, {}, 413, "file_too_large"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    library: Reef, http: httpx.Client, files: dict[str, Any], fields: dict[str, Any], status: int, code: str
) -> None:
    """Each with its code and a sentence; no document and no half file stays."""
    before, incoming = http.get("/api/v1/documents").json()["total"], half_received(library)
    parts = [("file", (name, content)) for name, content in files.items()] or [("stores", (None, "shared"))]
    answer = http.post("/api/v1/documents/upload", files=parts, data=fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["detail"]
    assert http.get("/api/v1/documents").json()["total"] == before
    assert half_received(library) <= incoming


def test_a_failed_file_says_why_and_can_be_tried_again(http: httpx.Client) -> None:
    """The reason in words; a retry of one document and of the upload."""
    accepted = send(http, {"good.txt": "good words", "bad.txt": "!bad words"})
    assert ended(http, accepted["upload_id"])["progress"]["files"] == {"indexed": 1, "failed": 1}
    (bad,) = http.get("/api/v1/documents", params={"upload_id": accepted["upload_id"], "state": "failed"}).json()[
        "documents"
    ]
    assert (bad["reason_code"], "refuse" in bad["reason"]) == ("corrupt", True)
    assert http.post(f"/api/v1/documents/{bad['id']}/retry").json()["state"] in ("queued", "parsing")
    assert ended(http, accepted["upload_id"])["progress"]["files"] == {"indexed": 1, "failed": 1}
    good = next(one["document_id"] for one in accepted["documents"] if one["name"] == "good.txt")
    assert http.post(f"/api/v1/documents/{good}/retry").status_code == 409
    assert http.post(f"/api/v1/uploads/{accepted['upload_id']}/retry").status_code == 200
    ended(http, accepted["upload_id"])


def test_stores_can_be_changed(http: httpx.Client) -> None:
    """From then on others find it, and who lost it does not."""
    accepted = send(http, {"secret.txt": "a peculiar cuttlefish"}, stores="alice")
    ended(http, accepted["upload_id"])
    document_id = accepted["documents"][0]["document_id"]
    changed = http.put(f"/api/v1/documents/{document_id}/stores", json={"stores": ["bob"]}).json()
    assert changed["stores"] == ["bob"]
    deadline = time.monotonic() + PATIENCE_S
    while http.get(f"/api/v1/documents/{document_id}").json()["state"] != "indexed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert search(http, "peculiar cuttlefish", stores=["bob"])[0]["document_id"] == document_id
    assert document_id not in {one["document_id"] for one in search(http, "peculiar cuttlefish", stores=["alice"])}
    assert http.put(f"/api/v1/documents/{document_id}/stores", json={"stores": ["nobody"]}).status_code == 404


# --- watching


def test_an_upload_is_watched_by_server_sent_events(http: httpx.Client) -> None:
    """A snapshot first, then each change, counts that end with `done`; who comes back late gets what it missed."""
    upload_id = http.post("/api/v1/uploads", json={"name": "watched"}).json()["id"]
    with http.stream("GET", f"/api/v1/uploads/{upload_id}/events") as stream:
        events = sse(stream)
        identity, first = next(events)
        assert (first["type"], first["snapshot"], first["files_total"], identity) == ("upload", True, 0, "")
        send(http, {f"{n}.txt": f"watched {n}" for n in range(30)}, upload_id=upload_id)
        http.post(f"/api/v1/uploads/{upload_id}/close")
        told = list(events)
    last: dict[str, str] = {}
    for _, event in told:
        if event["type"] == "document":
            last[event["name"]] = event["state"]
    assert last == {f"{n}.txt": "indexed" for n in range(30)}
    final = told[-1][1]
    assert (final["type"], final["state"], final["files"]) == ("upload", "done", {"indexed": 30})
    counts = [event for _, event in told if event["type"] == "upload"]
    assert len(counts) <= 4 * PATIENCE_S
    numbers = [int(identity) for identity, _ in told if identity]
    assert numbers == sorted(set(numbers))
    assert (
        http.get(f"/api/v1/uploads/{upload_id}/events", headers={"Last-Event-ID": str(numbers[-1])}).status_code == 204
    )


def test_an_upload_is_watched_over_the_web_socket(library: Reef, http: httpx.Client) -> None:
    """The same events by `subscribe`; a second client that names the last one it saw gets the rest and a snapshot."""
    upload_id = http.post("/api/v1/uploads", json={"name": "socket"}).json()["id"]
    address = library.url.replace("http", "ws") + "/ws"
    with connect(address, proxy=None) as socket:
        socket.send(json.dumps({"type": "subscribe", "upload_id": upload_id}))
        first = json.loads(socket.recv(PATIENCE_S))
        assert (first["type"], first["snapshot"]) == ("upload", True)
        send(http, {"one.txt": "seen by socket"}, upload_id=upload_id)
        seen = []
        while not seen or seen[-1].get("state") != "indexed":
            seen.append(json.loads(socket.recv(PATIENCE_S)))
    changes = [event for event in seen if event["type"] == "document"]
    assert [event["state"] for event in changes][-1] == "indexed"
    with connect(address, proxy=None) as socket:
        socket.send(json.dumps({"type": "subscribe", "upload_id": upload_id, "last_seq": changes[0]["seq"]}))
        again = [json.loads(socket.recv(PATIENCE_S)) for _ in changes]
    assert [event["seq"] for event in again[:-1]] == [event["seq"] for event in changes[1:]]
    assert again[-1]["snapshot"]
    http.post(f"/api/v1/uploads/{upload_id}/close")


def sse(stream: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The (id, event) pairs of an event stream."""
    identity, data = "", ""
    for line in stream.iter_lines():
        if line.startswith("id: "):
            identity = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif line == "" and data:
            yield identity, json.loads(data)
            identity, data = "", ""


# --- tus


def metadata(**pairs: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in pairs.items())


def begin(http: httpx.Client, length: int, **pairs: str) -> str:
    """Create a resumable file; gives its address."""
    headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata(**pairs)}
    answer = http.post(FILES, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def test_a_file_is_sent_in_parts_and_goes_on_where_it_ended(http: httpx.Client) -> None:
    """The core protocol: offsets are told by HEAD, a wrong one is refused, the last byte sends the file on its way."""
    content = ("resumable words " * 2000).encode()
    place = begin(http, len(content), filename="parts.txt", persona_id="alice")
    assert (
        http.patch(place, content=content[:1000], headers={**BYTES, "Upload-Offset": "0"}).headers["Upload-Offset"]
        == "1000"
    )
    head = http.head(place, headers=TUS)
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("1000", str(len(content)))
    assert (head.headers["Cache-Control"], "Upload-Expires" in head.headers) == ("no-store", True)
    wrong = http.patch(place, content=content, headers={**BYTES, "Upload-Offset": "0"})
    assert (wrong.status_code, wrong.headers["Upload-Offset"]) == (409, "1000")
    rest = http.patch(
        place, content=iter([content[1000:5000], content[5000:]]), headers={**BYTES, "Upload-Offset": "1000"}
    )
    assert (rest.status_code, rest.headers["Upload-Offset"]) == (204, str(len(content)))
    document_id = place.rpartition("/")[2]
    document = http.get(f"/api/v1/documents/{document_id}").json()
    assert document["sha256"] == hashlib.sha256(content).hexdigest()
    assert http.head(place, headers=TUS).headers["Upload-Offset"] == str(len(content))
    assert ended(http, document["upload_id"])["progress"]["files"] == {"indexed": 1}


def test_the_protocol_is_kept_to(http: httpx.Client) -> None:
    """Versions, lengths, types and metadata that do not fit are refused as the protocol says."""
    options = http.options(FILES)
    assert options.status_code == 204
    assert options.headers["Tus-Version"] == "1.0.0"
    assert set(options.headers["Tus-Extension"].split(",")) == {"creation", "expiration", "termination"}
    assert options.headers["Tus-Max-Size"] == "5000000"
    assert http.post(FILES, headers={"Upload-Length": "5"}).status_code == 412
    assert http.post(FILES, headers=TUS).status_code == 400
    assert http.post(FILES, headers={**TUS, "Upload-Length": "5000001"}).status_code == 413
    limits = http.get("/api/v1/uploads/limits").json()
    assert (limits["file_bytes_max"], limits["document_bytes_max"]) == (5_000_000, 100_000_000)
    bad = {**TUS, "Upload-Length": "5", "Upload-Metadata": "filename ###"}
    assert http.post(FILES, headers=bad).status_code == 400
    assert http.head(f"{FILES}/nothing", headers=TUS).status_code == 404
    place = begin(http, 5, filename="five.txt")
    assert http.patch(place, content=b"abc", headers={**TUS, "Upload-Offset": "0"}).status_code == 415
    assert http.patch(place, content=b"abcdefgh", headers={**BYTES, "Upload-Offset": "0"}).status_code == 413
    assert http.delete(place, headers=TUS).status_code == 204
    assert http.head(place, headers=TUS).status_code == 404
    empty = begin(http, 0, filename="empty.txt")
    document = http.get(f"/api/v1/documents/{empty.rpartition('/')[2]}").json()
    assert ended(http, document["upload_id"])["progress"]["files"] == {"failed": 1}


def test_a_connection_that_breaks_keeps_what_came(library: Reef, http: httpx.Client) -> None:
    """What arrived before the cut is there; the rest is sent from that offset, and the bytes are the file's."""
    import socket

    content = b"cut in the middle " * 20_000
    place = begin(http, len(content), filename="cut.txt")
    with socket.create_connection(("127.0.0.1", library.settings.port)) as raw:
        head = f"PATCH {place} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        head += f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(content)}\r\n\r\n"
        raw.sendall(head.encode() + content[:100_000])
    deadline = time.monotonic() + PATIENCE_S
    while (offset := int(http.head(place, headers=TUS).headers["Upload-Offset"])) < 100_000:
        assert time.monotonic() < deadline, offset
        time.sleep(0.02)
    while True:
        answer = http.patch(place, content=content[offset:], headers={**BYTES, "Upload-Offset": str(offset)})
        if answer.status_code != 423:  # the broken connection may not have been noticed yet
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.status_code == 204, answer.text
    document = http.get(f"/api/v1/documents/{place.rpartition('/')[2]}").json()
    assert document["sha256"] == hashlib.sha256(content).hexdigest()


def test_memory_does_not_grow_with_the_file(start_reef: StartReef, tmp_path: Path) -> None:
    """An archive of 120 MB by each way: the web process grows by a few megabytes at most, and goes on answering."""
    import psutil

    reef = start_reef(KNOWLEDGE_QUEUES)
    size = 120_000_000
    (web,) = psutil.Process(reef.processes.pids()["web"]).children()  # the process of the pool is its parent
    with reef.client() as http:
        send(http, {"warm.txt": "warm words"})
        before = web.memory_info().rss
        block = bytes(1_000_000)
        place = begin(http, size, filename="zeros.zip")
        body = (block for _ in range(size // len(block)))
        assert http.patch(place, content=body, headers={**BYTES, "Upload-Offset": "0"}).status_code == 204
        whole = tmp_path / "whole.zip"
        with whole.open("wb") as file:
            file.truncate(size)
        with whole.open("rb") as file:
            parts = {"file": ("whole.zip", file)}
            assert http.post("/api/v1/documents/upload", files=parts).status_code == 202
        assert web.memory_info().rss - before < 40_000_000


# --- embeddings


def test_openais_client_embeds(library: Reef) -> None:
    """A text, a list, floats and base64 alike, fewer dimensions, token counts; tokens and empty texts are refused."""
    with openai.OpenAI(base_url=f"{library.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        one = client.embeddings.create(model="any", input="coral and tide")
        two = client.embeddings.create(model="any", input=["coral and tide", "something else"], encoding_format="float")
        assert one.data[0].embedding == pytest.approx(two.data[0].embedding, abs=1e-6)
        assert [data.index for data in two.data] == [0, 1]
        assert (two.usage.prompt_tokens, two.usage.total_tokens) == (5, 5)
        assert sum(x * x for x in one.data[0].embedding) == pytest.approx(1.0, abs=1e-4)
        short = client.embeddings.create(model="any", input="coral and tide", dimensions=16, encoding_format="float")
        assert len(short.data[0].embedding) == 16
        for refused in ([1, 2, 3], [[1, 2]], [], "", ["a", ""], "word " * 100):
            with pytest.raises(openai.BadRequestError) as caught:
                client.embeddings.create(model="any", input=refused)  # type: ignore[arg-type]
            assert caught.value.param == "input"


def test_a_question_overtakes_an_upload(http: httpx.Client) -> None:
    """While hundreds of files are embedded, a search is answered at once."""
    accepted = send(http, {f"bulk{n}.txt": f"bulk number {n} " * 50 for n in range(300)})
    times = []
    while http.get(f"/api/v1/uploads/{accepted['upload_id']}").json()["state"] != "done":
        began = time.monotonic()
        search(http, "bulk number")
        times.append(time.monotonic() - began)
    assert times
    assert sorted(times)[len(times) // 2] < 1.0, times


# --- the same over gRPC


@pytest.fixture
def caller(library: Reef) -> Iterator[Caller]:
    """A gRPC client of the library's gateway."""
    with calling(grpc_of(library)) as client:
        grpc.channel_ready_future(client.channel).result(PATIENCE_S)
        yield client


def grpc_of(library: Reef) -> str:
    return f"127.0.0.1:{library.settings.grpc_port}"


def parts(files: dict[str, bytes], piece_bytes: int = 7, **to: Any) -> Iterator[pb.UploadPart]:
    """Files as a stream."""
    if to:
        yield pb.UploadPart(to=pb.UploadTo(**to))
    for name, content in files.items():
        yield pb.UploadPart(file=pb.UploadFile(name=name))
        for start in range(0, len(content), piece_bytes):
            yield pb.UploadPart(data=content[start : start + piece_bytes])


def test_grpc_from_upload_to_answer(caller: Caller) -> None:
    """Files come in pieces, their upload is watched to its end, and they are found, listed and deleted."""
    files = {"sky/comet.txt": b"a comet has a tail of dust", "sky/moon.txt": b"the moon has none"}
    accepted = caller.documents.Upload(parts(files, stores=["alice"], name="sky"))
    assert list(accepted.stores) == ["alice"]
    assert [(one.name, one.size_bytes) for one in accepted.documents] == [(n, len(c)) for n, c in files.items()]
    told = list(caller.documents.WatchUpload(pb.WatchUploadRequest(upload_id=accepted.upload_id)))
    assert told[0].progress.snapshot
    assert (told[-1].progress.state, dict(told[-1].progress.files)) == ("done", {"indexed": 2})
    after = pb.WatchUploadRequest(upload_id=accepted.upload_id, after_seq=told[-1].seq)
    assert list(caller.documents.WatchUpload(after)) == []
    found = caller.documents.Query(pb.QueryRequest(query="comet dust", persona_id="alice", k=1))
    assert (found.results[0].name, "dust" in found.results[0].text) == ("sky/comet.txt", True)
    document_id = found.results[0].document_id
    assert caller.documents.Get(pb.GetDocumentRequest(document_id=document_id)).state == "indexed"
    caller.documents.Delete(pb.DeleteDocumentRequest(document_id=document_id))
    listed = caller.documents.List(pb.ListDocumentsRequest(upload_id=accepted.upload_id))
    assert [one.name for one in listed.documents] == ["sky/moon.txt"]


def test_grpc_adds_to_an_open_upload(caller: Caller, http: httpx.Client) -> None:
    """Files of two streams may belong to one upload, which REST made and closes."""
    upload_id = http.post("/api/v1/uploads", json={"name": "two"}).json()["id"]
    for n in range(2):
        caller.documents.Upload(parts({f"{n}.txt": f"number {n} of two".encode()}, upload_id=upload_id))
    assert http.get(f"/api/v1/uploads/{upload_id}").json()["state"] == "open"
    http.post(f"/api/v1/uploads/{upload_id}/close")
    assert ended(http, upload_id)["progress"]["files"] == {"indexed": 2}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([], (grpc.StatusCode.INVALID_ARGUMENT, "no_files")),
        ([pb.UploadPart(data=b"x")], (grpc.StatusCode.INVALID_ARGUMENT, "bad_order")),
        ([pb.UploadPart()], (grpc.StatusCode.INVALID_ARGUMENT, "bad_order")),
        ([*parts({"a.txt": b"x"}), pb.UploadPart(to=pb.UploadTo())], (grpc.StatusCode.INVALID_ARGUMENT, "bad_order")),
        ([*parts({"../a.txt": b"x"})], (grpc.StatusCode.INVALID_ARGUMENT, "bad_name")),
        ([*parts({"a.txt": b"x"}, stores=["nobody"])], (grpc.StatusCode.NOT_FOUND, "unknown_store")),
        ([*parts({"a.txt": b"x"}, upload_id="none")], (grpc.StatusCode.NOT_FOUND, "unknown_upload")),
        ([*parts({"a.txt": b"x" * 5_000_001}, 1_000_000)], (grpc.StatusCode.RESOURCE_EXHAUSTED, "file_too_large")),
    ],
)
def test_grpc_refuses_and_keeps_nothing(
    library: Reef, caller: Caller, sent: list[pb.UploadPart], said: tuple[grpc.StatusCode, str]
) -> None:
    """What is refused over HTTP is refused here, and its bytes do not stay."""
    before = half_received(library)
    with pytest.raises(grpc.RpcError) as caught:
        caller.documents.Upload(iter(sent))
    code, details = refused(caught.value)
    assert (code, details["code"]) == said
    until_discarded(library, before)


def test_grpc_upload_that_is_cut_leaves_nothing(library: Reef, caller: Caller) -> None:
    """A client that goes in the middle of a file leaves neither bytes nor a document."""
    before = half_received(library)
    begun, cut = threading.Event(), threading.Event()

    def half() -> Iterator[pb.UploadPart]:
        yield from parts({"half.txt": b"half of a file"}, name="half")
        begun.set()
        cut.wait(PATIENCE_S)

    call = caller.documents.Upload.future(half())
    assert begun.wait(PATIENCE_S)
    call.cancel()
    until_discarded(library, before)
    cut.set()
    assert not caller.documents.List(pb.ListDocumentsRequest(query="half.txt")).documents


@pytest.mark.usefixtures("caller")
def test_grpc_program_of_the_documents_runs(library: Reef, tmp_path: Path) -> None:
    """docs/grpc.md: upload, watch and query, with a client made of the proto alone."""
    (tmp_path / "notes.txt").write_text("what the notes say: a limpet clings")
    told = run_documented(1, grpc_of(library), tmp_path).splitlines()
    assert any("done {'indexed': 1}" in line for line in told)
    assert any("limpet" in line for line in told)


def half_received(library: Reef) -> set[Path]:
    """Files of which bytes are missing; other tests of this file leave some."""
    incoming = library.data_dir / "originals" / "incoming"
    return set(incoming.iterdir()) if incoming.is_dir() else set()


def until_discarded(library: Reef, before: set[Path]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := half_received(library) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
