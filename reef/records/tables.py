"""Every table of the product. Times are Unix seconds; ids are 32 hex digits unless a client chose them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from reef.records.words import extra_words, folded

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ID = sa.String(64)

ACTIVE_STATES = ("queued", "running")


def _title_folded(context: Any) -> str | None:
    return folded(context.get_current_parameters().get("title") or "")


def _content_folded(context: Any) -> str | None:
    return folded(context.get_current_parameters()["content"])


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("task", sa.String(100), nullable=False),
    sa.Column("pool", sa.String(32), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # queued running done failed dead cancelled
    sa.Column("session_id", ID),
    sa.Column("lane", sa.String(200)),  # at most one active job per lane
    sa.Column("route", sa.String(200)),  # which devices of the pool should serve it; None: any of them
    sa.Column("idempotency_key", sa.String(200), unique=True),
    sa.Column("token", sa.Integer, nullable=False, default=0),  # fencing token: grows with each claim
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("attempts_max", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(100)),
    sa.Column("stop_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("sent_at", sa.Double, nullable=False, default=0.0),  # when a hint was last put on a queue
    sa.Column("not_before", sa.Double, nullable=False, default=0.0),
    sa.Column("deadline_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False, default=0.0),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Index("ix_jobs_state_pool_created_at", "state", "pool", "created_at"),
    sa.Index("ix_jobs_session_id", "session_id"),
    sa.Index("ix_jobs_owner", "owner"),
    sa.Index(
        "uq_jobs_lane_active",
        "lane",
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    ),
)

attachments = sa.Table(
    "attachments",
    metadata,
    # what a job works on, where it is megabytes: every change of a row writes all of it anew
    sa.Column("job_id", ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

personas = sa.Table(
    "personas",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("avatar", sa.String(16), nullable=False, default=""),
    sa.Column("color", sa.String(7), nullable=False, default=""),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("system_prompt", sa.Text, nullable=False, default=""),
    sa.Column("model", sa.String(200), nullable=False, default=""),
    sa.Column("temperature", sa.Double, nullable=False, default=0.7),
    sa.Column("greeting", sa.Text, nullable=False, default=""),
    sa.Column("mood", sa.String(32), nullable=False, default="calm"),
    sa.Column("builtin", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)

former_personas = sa.Table(
    "former_personas",
    metadata,
    # ids of personas that were deleted: none is ever given to another, who would inherit what was kept under it
    sa.Column("id", ID, primary_key=True),
    sa.Column("deleted_at", sa.Double, nullable=False),
    sa.Column("in_index", sa.Boolean, nullable=False),  # whether the vector index may still have its store
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("title", sa.String(200), nullable=False, default=""),
    sa.Column("persona_id", ID, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("folded", sa.Text, default=_title_folded),  # the title for searches: reef.records.words
    sa.Index("ix_sessions_updated_at", "updated_at"),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),  # order within everything
    sa.Column("id", ID, nullable=False, unique=True),
    sa.Column("session_id", ID, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("persona_id", ID),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, default="complete"),  # complete stopped failed
    sa.Column("superseded", sa.Boolean, nullable=False, default=False),  # replaced by an edit or a regeneration
    sa.Column("run_id", ID),
    sa.Column("usage", sa.Text),
    sa.Column("metrics", sa.Text),
    sa.Column("finish_reason", sa.String(8)),  # of a complete reply: stop, length; None: not known
    sa.Column("notice", sa.Text),  # what a person was told beside the reply, None: nothing
    sa.Column("citations", sa.Text),  # JSON list of what the reply rests on, None: nothing
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("folded", sa.Text, default=_content_folded),  # the content for searches: reef.records.words
)

memories = sa.Table(
    "memories",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("persona_id", ID, sa.ForeignKey("personas.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # SHA-256 of the key; the key is never stored
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, default=""),
    sa.Column("state", sa.String(16), nullable=False),  # reef.knowledge.model.UploadState
    sa.Column("stores", sa.Text, nullable=False),  # JSON list of store names its documents go to
    # documents of other uploads that its files took the place of
    sa.Column("replaced", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Index("ix_uploads_state", "state"),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("upload_id", ID, sa.ForeignKey("uploads.id", ondelete="SET NULL"), index=True),
    sa.Column("name", sa.String(500), nullable=False),  # path within the upload
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("received_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("sha256", sa.String(64)),  # of the original file, kept under that name; None: not here, or no more
    sa.Column("mime_type", sa.String(120), nullable=False, default=""),
    sa.Column("state", sa.String(16), nullable=False),  # reef.knowledge.model.DocumentState
    sa.Column("state_at", sa.Double, nullable=False),
    sa.Column("job_id", ID, index=True),  # the ledger's job that works on it now
    sa.Column("reason", sa.Text),  # of a failure, for a person
    sa.Column("reason_code", sa.String(32)),
    sa.Column("duplicate_of", ID),  # the same bytes were there already: nothing was done again
    sa.Column("title", sa.Text, nullable=False, default=""),
    sa.Column("language", sa.String(8), nullable=False, default=""),
    sa.Column("pages", sa.Integer, nullable=False, default=0),
    sa.Column("characters", sa.Integer, nullable=False, default=0),
    sa.Column("tokens", sa.Integer, nullable=False, default=0),
    sa.Column("chunk_count", sa.Integer, nullable=False, default=0),
    sa.Column("embedded_by", sa.String(200), nullable=False, default=""),  # model that made its vectors
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("indexed_at", sa.Double),
    sa.Index("ix_documents_state", "state"),
    sa.Index("ix_documents_sha256", "sha256"),
    sa.Index("ix_documents_name", "name"),
)

document_stores = sa.Table(
    "document_stores",
    metadata,
    sa.Column("document_id", ID, sa.ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("store", ID, primary_key=True),  # "shared" or a persona's id
    sa.Index("ix_document_stores_store", "store"),
)

FULL_TEXT_TABLE = "chunks_text"
"""SQLite's full-text index over `chunks`, kept by triggers; its own tables begin with this name too."""
FULL_TEXT_COLUMN = "searchable"
"""PostgreSQL's full-text index: a generated column of `chunks`."""


def is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether a table or column of the database stands in this file: the full-text indexes are made by a migration."""
    if kind == "table":
        return name is None or not name.startswith(FULL_TEXT_TABLE)
    return name not in (FULL_TEXT_COLUMN, f"ix_chunks_{FULL_TEXT_COLUMN}")


def _words_of_chunk(context: Any) -> str:
    row = context.get_current_parameters()
    return extra_words(f"{row.get('headings') or ''}\n{row['text']}")


chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),  # also the full-text index's row
    sa.Column("document_id", ID, sa.ForeignKey("documents.id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("headings", sa.Text, nullable=False, default=""),  # one a line, outermost first
    # for the full-text index: reef.records.words
    sa.Column("words", sa.Text, nullable=False, default=_words_of_chunk, server_default=""),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("end", sa.Integer, nullable=False),
    sa.Column("page_first", sa.Integer),
    sa.Column("page_last", sa.Integer),
    # JSON list of reef.knowledge.model.PageStart; empty: it is of one page, or was made by an older version
    sa.Column("page_starts", sa.Text, nullable=False, default="", server_default=""),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.UniqueConstraint("document_id", "number"),
    sqlite_autoincrement=True,  # a row number is never given twice: the vector index names its entries by them
)

windows = sa.Table(
    "windows",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),  # also the vector index's entry
    sa.Column("chunk_id", sa.Integer, sa.ForeignKey("chunks.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("end", sa.Integer, nullable=False),
    sa.Column("vector", sa.LargeBinary),  # float32 little-endian, normalised; the vector index can be made from it
    sqlite_autoincrement=True,
)

placements = sa.Table(
    "placements",
    metadata,
    sa.Column("node", sa.String(100), primary_key=True),
    sa.Column("pool", sa.String(32), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("tier", sa.String(16), nullable=False),
    sa.Column("general", sa.Boolean, nullable=False),
    sa.Column("routes", sa.Text, nullable=False),  # JSON lists
    sa.Column("resident", sa.Text, nullable=False),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("peers", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("decided_by", sa.String(32), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("decided_at", sa.Double, nullable=False),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("host", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),  # as queues.yaml writes it, without its host
    sa.Column("identity", sa.String(200), nullable=False),  # what the hardware says it is: chip id, USB port path
    sa.Column("failures", sa.Integer, nullable=False, default=0),  # in a row
    sa.Column("quarantined_until", sa.Double, nullable=False, default=0.0),
    sa.Column("last_fault", sa.Text, nullable=False, default=""),
    sa.Column("last_fault_at", sa.Double, nullable=False, default=0.0),
    sa.Column("first_seen_at", sa.Double, nullable=False),
    sa.Column("last_seen_at", sa.Double, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("format", sa.String(16), nullable=False),  # gguf tflite onnx encoder lora
    sa.Column("path", sa.Text, nullable=False, default=""),  # empty: not on disk
    sa.Column("source", sa.Text, nullable=False, default=""),
    sa.Column("licence", sa.String(100), nullable=False, default=""),
    sa.Column("quantisation", sa.String(32), nullable=False, default=""),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("sha256", sa.String(64), nullable=False, default=""),
    sa.Column("base", sa.String(200), nullable=False, default=""),  # of an adapter: the model it belongs to
    sa.Column("pinned", sa.Boolean, nullable=False, default=False),  # never evicted
    sa.Column("error", sa.Text, nullable=False, default=""),  # of the last try to fetch or load it
    sa.Column("added_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double, nullable=False),
)

leaders = sa.Table(
    "leaders",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),  # what is led
    sa.Column("holder", sa.String(100), nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)
