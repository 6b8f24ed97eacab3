"""Telling how uploads go: a document's change at once, an upload's counts at most every UPLOAD_TOLD_MS.

Every process that changes documents has one Progress. The broker may be away: counts are then told later, and changes
that nobody took are in the records, where a client that comes back begins anyway.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable

import msgspec
import redis
import sqlalchemy as sa
import sqlalchemy.exc

from reef import keys, streams
from reef.contracts.events import DocumentChanged, UploadEvent, UploadProgress
from reef.knowledge.model import UNSETTLED_STATES, UPLOAD_ENDED
from reef.records.database import Database
from reef.records.tables import chunks, documents, uploads, windows

log = logging.getLogger(__name__)

FLUSH_S = 0.05
"""Changes that come within this time are sent together."""
PENDING_MAX = 5_000
"""Changes that wait for a broker that is away; the oldest are forgotten first."""
COST_SHARE = 0.05
"""Counting a very large upload takes a while: at most this share of the time goes into it."""
RATE_OVER_S = 30.0
LATE_S = 30.0
"""Whoever changed a file tells it within this time, or is dead."""
LATE_MAX = 1_000
"""Files whose last change is told once more with the end of their upload."""
SETTLED = ("indexed", "failed", "cancelled", "replaced")


class Change(msgspec.Struct, frozen=True):
    """A document that is in another state now."""

    document_id: str
    upload_id: str | None
    name: str
    state: str
    at: float
    reason: str | None = None
    reason_code: str | None = None
    duplicate_of: str | None = None

    def event(self) -> DocumentChanged:
        """As it is told."""
        return DocumentChanged(**msgspec.structs.asdict(self))


class Embedded(msgspec.Struct, frozen=True):
    """How far the files of an upload are that get their vectors now. A large one is in this state for minutes."""

    windows: int = 0
    done: int = 0
    done_bytes: float = 0.0
    """Their share of the files' bytes."""
    since: float = 0.0
    """When work on those began that have a vector."""


def windows_of(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[str, tuple[int, int]]:
    """Windows, and those with a vector, of the documents among these that get their vectors now."""
    query = (
        sa.select(documents.c.id, sa.func.count(), sa.func.count(windows.c.vector))
        .join_from(documents, chunks, chunks.c.document_id == documents.c.id)
        .join(windows, windows.c.chunk_id == chunks.c.id)
        .where(which, documents.c.state == "embedding")
        .group_by(documents.c.id)
    )
    return {document_id: (total, done) for document_id, total, done in connection.execute(query)}


def _embedded(connection: sa.Connection, upload_id: str, now: float) -> Embedded:
    found = windows_of(connection, documents.c.upload_id == upload_id)
    begun = {document_id: done / total for document_id, (total, done) in found.items() if done}
    columns = (documents.c.id, documents.c.size_bytes, documents.c.state_at)
    which = sa.and_(documents.c.upload_id == upload_id, documents.c.state == "embedding")
    rows = [row for row in connection.execute(sa.select(*columns).where(which)) if row.id in begun]
    return Embedded(
        windows=sum(total for total, _ in found.values()),
        done=sum(done for _, done in found.values()),
        done_bytes=sum(row.size_bytes * begun[row.id] for row in rows),
        since=min((row.state_at for row in rows), default=now),
    )


def measure(connection: sa.Connection, upload_id: str, now: float) -> UploadProgress | None:
    """An upload's counts, or None where there is no such upload."""
    about = connection.execute(sa.select(uploads.c.state, uploads.c.replaced).where(uploads.c.id == upload_id)).first()
    if about is None:
        return None
    upload = about.state
    d = documents.c
    recent = sa.and_(d.state.in_(SETTLED), d.state_at > now - RATE_OVER_S)
    query = (
        sa.select(
            d.state,
            sa.func.count().label("files"),
            sa.func.sum(d.size_bytes).label("size"),
            sa.func.sum(d.received_bytes).label("received"),
            sa.func.sum(d.chunk_count).label("chunks"),
            sa.func.sum(sa.case((recent, 1), else_=0)).label("recent"),
            sa.func.sum(sa.case((recent, d.size_bytes), else_=0)).label("recent_bytes"),
            sa.func.min(sa.case((recent, d.state_at), else_=None)).label("since"),
        )
        .where(d.upload_id == upload_id, d.state != "deleted")
        .group_by(d.state)
    )
    rows = connection.execute(query).mappings().all()
    since = min((row["since"] for row in rows if row["since"] is not None), default=now)
    span_s = max(now - since, 1.0)
    files_per_s = sum(row["recent"] for row in rows) / span_s
    left = sum(row["files"] for row in rows if row["state"] in UNSETTLED_STATES)
    running = left > 0 and upload in ("open", "running")
    embedded = _embedded(connection, upload_id, now) if running else Embedded()
    bytes_per_s = float(sum(row["recent_bytes"] for row in rows)) / span_s
    eta_s = left / files_per_s if running and files_per_s > 0 else None
    if eta_s is None and embedded.done:  # no file has ended lately: those on their way say how fast it goes
        bytes_per_s = embedded.done_bytes / max(now - embedded.since, 1.0)
        left_bytes = sum(float(row["size"]) for row in rows if row["state"] in UNSETTLED_STATES) - embedded.done_bytes
        eta_s = left_bytes / bytes_per_s if bytes_per_s > 0 else None
    return UploadProgress(
        upload_id=upload_id,
        state=upload,
        files={row["state"]: row["files"] for row in rows},
        files_total=sum(row["files"] for row in rows),
        bytes_total=int(sum(row["size"] for row in rows)),
        bytes_received=int(sum(row["received"] for row in rows)),
        bytes_done=int(sum(row["size"] for row in rows if row["state"] in SETTLED)),
        chunks=int(sum(row["chunks"] for row in rows)),
        replaced=about.replaced,
        files_per_s=round(files_per_s, 2),
        bytes_per_s=round(bytes_per_s, 1),
        eta_s=None if eta_s is None else round(eta_s, 1),
        windows=embedded.windows,
        windows_embedded=embedded.done,
    )


def _last_changes(connection: sa.Connection, upload_id: str, now: float) -> list[Change]:
    """How the files of an upload ended that did so lately, oldest first: not all of it may have been told yet."""
    d = documents.c
    what = (d.upload_id, d.name, d.state, d.reason, d.reason_code, d.duplicate_of)
    query = (
        sa.select(d.id.label("document_id"), d.state_at.label("at"), *what)
        .where(d.upload_id == upload_id, d.state.in_(SETTLED), d.state_at > now - LATE_S)
        .order_by(d.state_at.desc())
        .limit(LATE_MAX)
    )
    rows = connection.execute(query).mappings().all()
    return [Change(**row) for row in reversed(rows)]


class Progress:
    """Tells this process's changes. Starts its thread with the first one."""

    def __init__(self, client: redis.Redis, database: Database) -> None:
        self._client, self._database = client, database
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._changes: deque[Change] = deque(maxlen=PENDING_MAX)
        self._dirty: dict[str, float] = {}
        self._closing = self._closed = False
        self._thread: threading.Thread | None = None

    def tell(self, changes: Iterable[Change]) -> None:
        """These documents changed. Never waits."""
        changes = [change for change in changes if change.upload_id is not None]
        if changes:
            with self._lock:
                self._changes.extend(changes)
            self.touch(change.upload_id for change in changes if change.upload_id is not None)

    def touch(self, upload_ids: Iterable[str]) -> None:
        """The counts of these uploads changed."""
        with self._lock:
            for upload_id in upload_ids:
                self._dirty.setdefault(upload_id, 0.0)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)
                self._thread.start()
        self._wake.set()

    def close(self, timeout_s: float = 2.0) -> None:
        """Tell what is pending, for at most that long. Database and broker may be closed after it."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._closed = True

    def _loop(self) -> None:
        while True:
            with self._lock:
                idle = not self._dirty and not self._changes
            if self._closed or (self._closing and idle):
                return
            self._wake.wait(None if idle else FLUSH_S)
            self._wake.clear()
            try:
                self._send_changes()
                self._send_counts()
            except (redis.RedisError, OSError) as error:
                log.warning("progress waits: the broker does not answer (%s)", error)
                if self._closing:
                    return
                time.sleep(1.0)
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("progress waits: the database does not answer (%s)", error)
                if self._closing:
                    return
                time.sleep(1.0)
            else:
                time.sleep(FLUSH_S)

    def _send_changes(self) -> None:
        with self._lock:
            changes = list(self._changes)
            self._changes.clear()
        if not changes:
            return
        try:
            self._send([(change.upload_id or "", change.event()) for change in changes])
        except (redis.RedisError, OSError):
            with self._lock:
                self._changes.extendleft(reversed(changes))
            raise

    def _send_counts(self) -> None:
        now = time.monotonic()
        with self._lock:
            # nobody tells later what is spared now
            due = [upload_id for upload_id, not_before in self._dirty.items() if self._closing or not_before <= now]
        for upload_id in due:
            if self._closed:
                return
            # whoever gets the key tells for all: the counts are read after it, so nothing is missed
            if not self._client.set(keys.upload_told(upload_id), "1", nx=True, px=keys.UPLOAD_TOLD_MS):
                continue
            with self._lock:
                self._dirty.pop(upload_id, None)
            began = time.monotonic()
            try:
                self._send_state(upload_id)
            except BaseException:
                self.touch([upload_id])
                raise
            self._rest(upload_id, time.monotonic() - began)

    def _send_state(self, upload_id: str) -> None:
        """The counts of an upload. Its end comes after the ends of its files, whoever was to tell those."""
        now = time.time()
        last: list[Change] = []
        with self._database.read() as connection:
            counts = measure(connection, upload_id, now)
            if counts is not None and counts.state in UPLOAD_ENDED:
                last = _last_changes(connection, upload_id, now)
        if counts is not None:
            self._send([*((upload_id, change.event()) for change in last), (upload_id, counts)])

    def _rest(self, upload_id: str, cost_s: float) -> None:
        """Do not count again too soon what takes long to count."""
        with self._lock:
            if upload_id in self._dirty:
                self._dirty[upload_id] = time.monotonic() + cost_s / COST_SHARE

    def _send(self, told: list[tuple[str, UploadEvent]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for upload_id, event in told:
            streams.queue_upload_event(pipeline, upload_id, event)
        pipeline.execute()
