"""The database: SQLite in WAL mode on one machine, PostgreSQL where that is outgrown. Same tables, same migrations."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

MIGRATIONS = Path(__file__).parent / "migrations"
POOL_CONNECTIONS_MAX = 20
BUSY_PAUSE_MIN_S, BUSY_PAUSE_MAX_S = 0.001, 0.02
SQLITE_BUSY_MS = 5
"""What SQLite may wait inside its library, once WAL mode is on; the rest of the wait is ours."""


LINK_WATCH = {
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8_000,
}
"""A link to PostgreSQL that carries nothing is given up after about nine seconds, not after the system's hours; at the
server's end too, where a transaction behind a cut link would go on holding its locks."""


class Database:
    """Connections to the records. Cheap to make; nothing connects before the first use."""

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0) -> None:
        """`busy_timeout_s`: how long a write waits for another process's write before it fails."""
        self._busy_timeout_s = busy_timeout_s
        self.url = sa.make_url(url)
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        self.kind = self.url.get_backend_name()
        if self.kind not in ("sqlite", "postgresql"):
            raise ValueError(f"REEF_DATABASE_URL: {self.kind} is not supported; use sqlite:/// or postgresql://.")
        options: dict[str, Any] = {"pool_size": POOL_CONNECTIONS_MAX, "max_overflow": 0, "pool_timeout": 10}
        if self.kind == "sqlite":
            # autocommit at the driver: BEGIN IMMEDIATE is ours to send, so that a write never fails half-way
            options["connect_args"] = {
                "timeout": busy_timeout_s,
                "isolation_level": None,
                "check_same_thread": False,
            }
            options["isolation_level"] = "AUTOCOMMIT"
            options["pool_reset_on_return"] = None  # nothing is ever left open
        else:
            options["pool_pre_ping"] = True
            options["connect_args"] = {"connect_timeout": 5, **LINK_WATCH}
        self.engine = sa.create_engine(self.url, **options)
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        if self.kind == "sqlite":
            sa.event.listen(self.engine, "connect", _sqlite_pragmas)
        else:
            sa.event.listen(self.engine, "connect", _postgres_settings)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write; it commits at the end and rolls back on an exception."""
        if self.kind == "postgresql":
            with self.engine.begin() as connection:
                yield connection
            return
        with self.engine.connect() as connection:
            self._begin(connection)
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    def _begin(self, connection: sa.Connection) -> None:
        """Take SQLite's write lock. The wait is ours, in short sleeps: SQLite's own would hold up every greenlet."""
        deadline = time.monotonic() + self._busy_timeout_s
        pause_s = BUSY_PAUSE_MIN_S
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except sa.exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() >= deadline:
                    raise
            else:
                return
            time.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - only to keep two waiters apart
            pause_s = min(pause_s * 1.5, BUSY_PAUSE_MAX_S)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries, each its own snapshot."""
        engine = self.engine if self.kind == "sqlite" else self._reading
        with engine.connect() as connection:
            yield connection

    def ping(self) -> None:
        """Raises sqlalchemy.exc.SQLAlchemyError when the database does not answer."""
        with self.read() as connection:
            connection.execute(sa.text("SELECT 1"))

    def dispose(self) -> None:
        """Close the connections: those that are in use when they come back."""
        pool = self.engine.pool
        self.engine.dispose()
        # a pool that was disposed of would keep them
        sa.event.listen(pool, "checkin", lambda _connection, record: record.invalidate())


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # NORMAL in WAL mode: a killed process loses nothing; a power cut may lose the last commits, never consistency
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")
    cursor.close()


def _postgres_settings(connection: Any, _record: Any) -> None:
    autocommit, connection.autocommit = connection.autocommit, True
    for name, value in LINK_WATCH.items():
        connection.execute(f"SET {name if name.startswith('tcp') else f'tcp_{name}'} = {value}")
    connection.autocommit = autocommit


def migrate(url: str) -> None:
    """Bring the schema to this version, under a lock, so that two processes may start at once.

    Raises sqlalchemy.exc.SQLAlchemyError when the database cannot be reached or written.
    """
    from alembic import command
    from alembic.config import Config

    database = Database(url, busy_timeout_s=30.0)
    try:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with database.write() as connection:
            if database.kind == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7461726565)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.dispose()
