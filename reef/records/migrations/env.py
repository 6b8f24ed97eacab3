"""Runs migrations on the connection (and inside the transaction) that reef.records.database.migrate hands over."""

from __future__ import annotations

from alembic import context

from reef.records.tables import is_ours, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=is_ours,
    render_as_batch=True,
    transactional_ddl=False,  # the caller's transaction holds the whole upgrade
)
context.run_migrations()
