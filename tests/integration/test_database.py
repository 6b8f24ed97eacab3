"""The records' connections, on each database."""

from __future__ import annotations

import sqlalchemy as sa

from reef.records.database import Database


def test_a_connection_in_use_is_closed_when_it_comes_back(any_database: Database) -> None:
    """Closing waits for nobody; a thread that still reads goes on, and its connection is not left open after that."""
    lent = any_database.engine.connect()
    raw = lent.connection.driver_connection
    any_database.dispose()
    assert lent.execute(sa.text("SELECT 1")).scalar() == 1
    lent.close()
    if any_database.kind == "postgresql":
        assert raw is not None
        assert raw.closed
    with any_database.read() as again:
        assert again.execute(sa.text("SELECT 1")).scalar() == 1
