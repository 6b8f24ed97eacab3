"""Uploads and the files that come in them: making, receiving, pausing, cancelling, trying again. Rows and originals."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.knowledge import changes
from reef.knowledge.archives import is_archive
from reef.knowledge.changes import leave
from reef.knowledge.flow import Flow, close_finished
from reef.knowledge.model import RETRYABLE_CODES, SHARED_STORE, UNSETTLED_STATES
from reef.knowledge.names import clean_name, distinct_name
from reef.knowledge.originals import Kept
from reef.knowledge.parsing.limits import DOCUMENT_BYTES_MAX
from reef.knowledge.progress import Change
from reef.records.tables import documents, personas, uploads

STORES_MAX = 100
"""Stores of one document."""
UPLOADS_LISTED_MAX = 200
FILES_TOGETHER = 20
"""Files that are written down in one transaction."""


class UnknownUpload(KeyError):
    """No upload has this id."""


class UnknownStore(ValueError):
    """A store is named that is neither `shared` nor a persona."""


class UploadClosed(Exception):
    """This upload takes no more files, or cannot be changed like this; the text says why."""


class UploadFull(Exception):
    """A limit of uploads is reached; the text names it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be uploaded. An archive may have `file_bytes_max`; a file that is itself read, `document_bytes_max`."""

    file_bytes_max: int
    document_bytes_max: int = DOCUMENT_BYTES_MAX
    files_max: int
    upload_bytes_max: int
    reserve_bytes: int

    def bytes_max(self, name: str) -> int:
        """How long a file of this name may be."""
        return self.file_bytes_max if is_archive(name) else min(self.document_bytes_max, self.file_bytes_max)


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload. Times are Unix seconds."""

    id: str
    name: str
    state: str
    stores: list[str]
    created_at: float
    updated_at: float
    finished_at: float | None


class Added(msgspec.Struct, frozen=True):
    """A file that was written down: its document, and the name it got."""

    document_id: str
    name: str


_UPLOAD = [uploads.c[name] for name in Upload.__struct_fields__]


class Uploads:
    """The one way in for files. One per process."""

    def __init__(self, flow: Flow, limits: Limits) -> None:
        self.flow, self.limits = flow, limits
        self.database, self.originals = flow.database, flow.originals

    # --- uploads

    def create(self, name: str, stores: Sequence[str], *, state: str = "open") -> Upload:
        """A new upload to these stores. Raises UnknownStore."""
        now = time.time()
        with self.database.write() as connection:
            checked = check_stores(connection, stores)
            upload = Upload(
                id=uuid.uuid4().hex,
                name=name[:200],
                state=state,
                stores=checked,
                created_at=now,
                updated_at=now,
                finished_at=None,
            )
            values = msgspec.structs.asdict(upload) | {"stores": msgspec.json.encode(checked).decode()}
            connection.execute(uploads.insert().values(values))
        return upload

    def get(self, upload_id: str) -> Upload:
        """The upload of that id. Raises UnknownUpload."""
        with self.database.read() as connection:
            return find_upload(connection, upload_id)

    def recent(self, state: str = "", limit: int = UPLOADS_LISTED_MAX) -> list[Upload]:
        """Uploads, newest first."""
        query = sa.select(*_UPLOAD).order_by(uploads.c.created_at.desc()).limit(limit)
        if state:
            query = query.where(uploads.c.state == state)
        with self.database.read() as connection:
            return [_upload(row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """Number of uploads in each state."""
        query = sa.select(uploads.c.state, sa.func.count()).group_by(uploads.c.state)
        with self.database.read() as connection:
            return dict(connection.execute(query).all())

    def close(self, upload_id: str) -> Upload:
        """No more files will come: it is done as soon as those that came are. Raises UnknownUpload."""
        return self._change(upload_id, ("open",), "running")

    def pause(self, upload_id: str) -> Upload:
        """Let what is being worked on end and begin nothing more. Raises UnknownUpload and UploadClosed."""
        return self._change(upload_id, ("open", "running"), "paused", same="paused")

    def resume(self, upload_id: str) -> Upload:
        """Go on. Raises UnknownUpload and UploadClosed."""
        return self._change(upload_id, ("paused",), "running", same="running")

    def cancel(self, upload_id: str) -> Upload:
        """End what is not indexed yet; what is indexed stays. Raises UnknownUpload."""
        now = time.time()
        with self.database.write() as connection:
            changes.alone(connection)
            find_upload(connection, upload_id)
            connection.execute(
                uploads.update()
                .where(uploads.c.id == upload_id, uploads.c.state != "done")
                .values(state="cancelled", updated_at=now, finished_at=now)
            )
            which = sa.and_(documents.c.upload_id == upload_id, documents.c.state.in_(UNSETTLED_STATES))
            ids = list(connection.execute(sa.select(documents.c.id).where(which)).scalars())
            told = leave(connection, ids, "cancelled", now)
            upload = find_upload(connection, upload_id)
        for document_id in ids:
            self.originals.discard(document_id)
        self._after(told, upload_id)
        return upload

    def retry(self, upload_id: str) -> Upload:
        """Try its failed files again whose reason may pass. Raises UnknownUpload; UploadClosed where none may."""
        with self.database.write() as connection:
            changes.alone(connection)
            upload = find_upload(connection, upload_id)
            if upload.state == "cancelled":
                raise UploadClosed("This upload was cancelled; upload its files again.")
            query = sa.select(documents.c.id).where(documents.c.upload_id == upload_id, documents.c.state == "failed")
            failed = connection.execute(query).scalars().all()
            told = [change for one in failed for change in retry(connection, one)]
            if failed and not told:
                raise UploadClosed(
                    "Trying its failed files again does not help; each says what does. Upload them anew."
                )
            upload = find_upload(connection, upload_id)
        self._after(told, upload_id)
        return upload

    def _change(self, upload_id: str, before: Sequence[str], state: str, *, same: str = "") -> Upload:
        now = time.time()
        with self.database.write() as connection:
            upload = find_upload(connection, upload_id)
            if upload.state in before:
                change = uploads.update().where(uploads.c.id == upload_id, uploads.c.state.in_(before))
                connection.execute(change.values(state=state, updated_at=now))
                close_finished(connection, now)
            elif same and upload.state != same:
                raise UploadClosed(f"This upload is {upload.state}; it cannot be made {state}.")
            upload = find_upload(connection, upload_id)
        self._after([], upload_id)
        return upload

    # --- files

    def begin_file(self, upload_id: str, name: str, size_bytes: int) -> str:
        """A file of that size will come; gives the document's id, under which its bytes are received.

        Raises BadName, UnknownUpload, UploadClosed, UploadFull, DiskFull.
        """
        name = clean_name(name)
        if size_bytes > self.limits.bytes_max(name):
            raise UploadFull(f"{too_long(name, self.limits.bytes_max(name))} This one has {megabytes(size_bytes)}.")
        self.originals.check_room(size_bytes)
        with self.database.write() as connection:
            upload = self._open(connection, upload_id, 1, size_bytes)
            added, told = _insert(connection, upload, name, size_bytes, None)
        self.flow.progress.tell(told)
        return added.document_id

    def note_received(self, document_id: str, received_bytes: int) -> None:
        """So many bytes of a file are here now."""
        with self.database.write() as connection:
            row = connection.execute(
                documents.update()
                .where(documents.c.id == document_id, documents.c.state == "receiving")
                .values(received_bytes=received_bytes, state_at=time.time())
                .returning(documents.c.upload_id)
            ).first()
        if row is not None and row[0] is not None:
            self.flow.progress.touch([row[0]])

    def finish_file(self, document_id: str, kept: Kept) -> None:
        """All bytes of a file are here and kept: it goes on its way, unless it was cancelled meanwhile."""
        now = time.time()
        with self.database.write() as connection:
            changes.alone(connection)
            came = connection.execute(
                documents.update()
                .where(documents.c.id == document_id, documents.c.state == "receiving")
                .values(sha256=kept.sha256, size_bytes=kept.size_bytes, received_bytes=kept.size_bytes)
            )
            told = changes.admit(connection, document_id, now) if came.rowcount else []
        self._after(told)

    def add_kept(self, upload_id: str, files: Sequence[tuple[str, Kept]]) -> list[Added]:
        """Files that are here already; gives what became of each.

        Raises BadName, UnknownUpload, UploadClosed, UploadFull.
        """
        cleaned = [(clean_name(name), kept) for name, kept in files]
        left_bytes = sum(kept.size_bytes for _, kept in cleaned)
        found: list[Added] = []
        # in small transactions: other requests have their turn between them
        for start in range(0, len(cleaned), FILES_TOGETHER):
            told: list[Change] = []
            with self.database.write() as connection:
                changes.alone(connection)
                upload = self._open(connection, upload_id, len(cleaned) - start, left_bytes)
                for name, kept in cleaned[start : start + FILES_TOGETHER]:
                    added, changed = _insert(connection, upload, name, kept.size_bytes, kept)
                    found.append(added)
                    told += changed
                    left_bytes -= kept.size_bytes
            self._after(told, upload_id)
            time.sleep(0)
        return found

    def _open(self, connection: sa.Connection, upload_id: str, files: int, size_bytes: int) -> Upload:
        """The upload, if it takes so much more."""
        upload = find_upload(connection, upload_id)
        if upload.state == "cancelled":
            raise UploadClosed("This upload was cancelled; start another one.")
        d = documents.c
        count, total = connection.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(d.size_bytes), 0)).where(d.upload_id == upload_id)
        ).one()
        if count + files > self.limits.files_max:
            raise UploadFull(f"an upload may have {self.limits.files_max} files; start another one")
        if total + size_bytes > self.limits.upload_bytes_max:
            raise UploadFull(f"an upload may have {self.limits.upload_bytes_max} bytes; start another one")
        values: dict[str, Any] = {"updated_at": time.time()}
        if upload.state == "done":
            values |= {"state": "running", "finished_at": None}
        connection.execute(uploads.update().where(uploads.c.id == upload_id).values(values))
        return upload

    def _after(self, told: list[Change], upload_id: str = "") -> None:
        self.flow.progress.tell(told)
        if upload_id:
            self.flow.progress.touch([upload_id])
        self.flow.advance()


def too_long(name: str, bytes_max: int) -> str:
    """That a file of this name has more bytes than it may have, for a person."""
    kind = "An archive" if is_archive(name) else "A document"
    return f"{kind} may have {megabytes(bytes_max)}."


def megabytes(count: int) -> str:
    """A size as every page and message tells it: 1 MB is a million bytes."""
    return f"{count / 1e6:,.{0 if count >= 100_000_000 else 1}f} MB"


def find_upload(connection: sa.Connection, upload_id: str) -> Upload:
    """The upload of that id, within the caller's transaction. Raises UnknownUpload."""
    row = connection.execute(sa.select(*_UPLOAD).where(uploads.c.id == upload_id)).mappings().first()
    if row is None:
        raise UnknownUpload(upload_id)
    return _upload(row)


def check_stores(connection: sa.Connection, stores: Sequence[str]) -> list[str]:
    """These stores in order, each once. Raises UnknownStore."""
    wanted = sorted(set(stores))
    if not wanted or len(wanted) > STORES_MAX:
        raise UnknownStore(f"Name 1 to {STORES_MAX} stores: {SHARED_STORE!r} or ids of personas.")
    query = sa.select(personas.c.id).where(personas.c.id.in_(wanted))
    known = {SHARED_STORE, *connection.execute(query).scalars()}
    if unknown := [store for store in wanted if store not in known]:
        raise UnknownStore(f"There is no store {unknown[0]!r}; a store is {SHARED_STORE!r} or the id of a persona.")
    return wanted


def retry(connection: sa.Connection, document_id: str) -> list[Change]:
    """Begin anew with a failed document that has its bytes, if that may help, within the caller's transaction."""
    row = connection.execute(
        sa.select(documents.c.sha256, documents.c.upload_id).where(
            documents.c.id == document_id,
            documents.c.state == "failed",
            documents.c.reason_code.in_(RETRYABLE_CODES),
        )
    ).first()
    if row is None or row.sha256 is None:
        return []
    reopen = uploads.update().where(uploads.c.id == row.upload_id, uploads.c.state == "done")
    connection.execute(reopen.values(state="running", finished_at=None))
    return changes.admit(connection, document_id, time.time())


def _insert(
    connection: sa.Connection, upload: Upload, name: str, size_bytes: int, kept: Kept | None
) -> tuple[Added, list[Change]]:
    now = time.time()
    document_id = uuid.uuid4().hex
    name = distinct_name(name, changes.names_taken(connection, upload.id, name, kept.sha256 if kept else None))
    connection.execute(
        documents.insert().values(
            id=document_id,
            upload_id=upload.id,
            name=name,
            size_bytes=size_bytes,
            received_bytes=kept.size_bytes if kept else 0,
            sha256=kept.sha256 if kept else None,
            state="receiving",
            state_at=now,
            created_at=now,
        )
    )
    changes.put_into(connection, document_id, upload.stores)
    if kept is not None:
        return Added(document_id, name), changes.admit(connection, document_id, now)
    return Added(document_id, name), [Change(document_id, upload.id, name, "receiving", now)]


def _upload(row: Any) -> Upload:
    return Upload(**{**row, "stores": msgspec.json.decode(row["stores"])})
