"""Every table of the product. Times are Unix seconds; ids are 32 hex digits unless a client chose them."""

from __future__ import annotations

import sqlalchemy as sa

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

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("title", sa.String(200), nullable=False, default=""),
    sa.Column("persona_id", ID, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
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
    sa.Column("created_at", sa.Double, nullable=False),
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
