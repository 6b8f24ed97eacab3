"""A library of its own for the benches of knowledge: an empty SQLite, an empty Chroma, passages given with vectors."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import sqlalchemy as sa

from bench.product import DATA
from reef.knowledge import heartbeat
from reef.knowledge.indexing import PassageIndex
from reef.knowledge.vectors import VectorIndex
from reef.records.database import Database, migrate
from reef.records.tables import chunks, document_stores, documents, windows
from reef.settings import inherited_environment
from reef.topology import Device
from workers import vector_server
from workers.engines.encoder_files import DEFAULT_MODEL
from workers.engines.tflite import TfliteEngine

READY_MAX_S = 60.0
HANG_S = 60.0
DOCUMENTS_AT_ONCE = 500


class Piece(msgspec.Struct, frozen=True):
    """A passage: its document's name, the headings above it, its text."""

    name: str
    headings: tuple[str, ...]
    text: str

    def shown(self) -> str:
        """What is embedded: the passage under its headings."""
        return "\n".join((*self.headings, self.text))


class Library(msgspec.Struct, frozen=True):
    """What a bench works on."""

    directory: Path
    database: Database
    vectors: VectorIndex
    chroma: psutil.Process


@contextmanager
def open_library(name: str) -> Iterator[Library]:
    """An empty library with a Chroma of its own, thrown away afterwards."""
    directory = DATA / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    url = f"sqlite:///{directory / 'reef.db'}"
    migrate(url)
    endpoint, argv = vector_server.prepare(directory / "chroma")
    environment = inherited_environment() | dict(vector_server.QUIET)
    with (directory / "chroma.log").open("wb") as log:
        server = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    database, vectors = Database(url), VectorIndex(endpoint.url)
    try:
        deadline = time.monotonic() + READY_MAX_S
        while not heartbeat.beats(endpoint.url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Chroma does not start; see {directory / 'chroma.log'}")
            time.sleep(0.02)
        yield Library(directory, database, vectors, psutil.Process(server.pid))
    finally:
        vectors.close()
        database.dispose()
        server.terminate()
        server.wait(10)
    shutil.rmtree(directory, ignore_errors=True)


def fill(library: Library, pieces: Sequence[Piece], vectors: Sequence[bytes], store: str = "shared") -> None:
    """Store passages with their vectors, one window each, and index them."""
    record(library, pieces, vectors, store)
    index_waiting(library)


def index_waiting(library: Library) -> None:
    """Put what waits into the index and make it visible, as the index worker does."""
    index = PassageIndex(library.database, library.vectors)
    query = sa.select(documents.c.id).where(documents.c.state == "indexing").limit(DOCUMENTS_AT_ONCE)
    while True:
        with library.database.read() as connection:
            ids = list(connection.execute(query).scalars())
        if not ids:
            return
        index.put(ids, lambda: None)
        with library.database.write() as connection:
            connection.execute(documents.update().where(documents.c.id.in_(ids)).values(state="indexed"))


def record(library: Library, pieces: Sequence[Piece], vectors: Sequence[bytes], store: str = "shared") -> None:
    """Store passages with their vectors in the records alone; their documents wait to be indexed."""
    names = list(dict.fromkeys(piece.name for piece in pieces))
    now = time.time()
    ids = {name: f"{number:08x}{os.urandom(8).hex()}" for number, name in enumerate(names)}
    common = {"size_bytes": 1, "state": "indexing", "state_at": now, "created_at": now, "language": "en"}
    with library.database.write() as connection:
        rows = [common | {"id": ids[name], "name": name, "mime_type": "text/markdown"} for name in names]
        connection.execute(documents.insert(), rows)
        connection.execute(document_stores.insert(), [{"document_id": ids[name], "store": store} for name in names])
        first = (connection.execute(sa.select(sa.func.max(chunks.c.id))).scalar() or 0) + 1
        connection.execute(
            chunks.insert(),
            [
                {
                    "id": first + number,
                    "document_id": ids[piece.name],
                    "number": number,
                    "text": piece.text,
                    "headings": "\n".join(piece.headings),
                    "start": number * 10_000,
                    "end": number * 10_000 + len(piece.text),
                    "tokens": len(piece.text.split()),
                }
                for number, piece in enumerate(pieces)
            ],
        )
        connection.execute(
            windows.insert(),
            [
                {"chunk_id": first + number, "start": 0, "end": len(piece.text), "vector": vector}
                for number, (piece, vector) in enumerate(zip(pieces, vectors, strict=True))
            ],
        )


@contextmanager
def open_encoder() -> Iterator[TfliteEngine]:
    """The engine of an embed pool on all cores, loaded."""
    engine = TfliteEngine(
        DEFAULT_MODEL,
        Device(name="cpu", kind="cpu"),
        models_dir=DATA / "models" / "embeddings",
        hang_s=HANG_S,
        trace_file=DATA / "bench-encoder.hang",
    )
    try:
        engine.load(lambda share, note: None)
        yield engine
    finally:
        engine.close()
