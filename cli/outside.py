"""What a start needs and does not make itself: the address it listens on, the broker and the database.

Looked at before anything is fetched or started; whoever finds one missing says it in these words.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import sqlalchemy as sa

from cli.errors import Problem
from cli.options import without_password
from reef.records.database import Database, migrate
from reef.settings import Settings
from workers import broker


@contextmanager
def database_problems(settings: Settings) -> Iterator[None]:
    """What goes wrong with the database in this block is told as a Problem, without its password."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, ValueError, ImportError) as error:
        reason = without_password(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
        shown = without_password(settings.sqlalchemy_url)
        raise Problem(
            f"The database {f'of REEF_DATABASE_URL ({shown})' if settings.database_url else shown} "
            f"cannot be used: {reason}",
            "Check it (postgresql://USER:PASSWORD@HOST/NAME), and that the server runs and lets this machine in."
            if settings.database_url
            else "Is the disk full, or does the file belong to another user?",
        ) from None


def bring_up_to_date(settings: Settings) -> None:
    """Migrate the database. Raises Problem when it cannot be reached or written."""
    with database_problems(settings):
        migrate(settings.sqlalchemy_url)


def check_database(settings: Settings) -> None:
    """Raises Problem when it does not answer."""
    with database_problems(settings):
        database = Database(settings.sqlalchemy_url)
        try:
            database.ping()
        finally:
            database.dispose()


def check_broker(settings: Settings) -> None:
    """PING the broker of REEF_REDIS_URL. Raises Problem without its password."""
    try:
        broker.ping(settings.redis_url, timeout_s=3.0)
    except (redis.RedisError, ValueError) as error:
        raise Problem(
            f"The broker of REEF_REDIS_URL ({without_password(settings.redis_url)}) cannot be used: {error}",
            "Check host, port and password (redis://:PASSWORD@HOST:6379/0), or unset REEF_REDIS_URL: "
            "then coral-reef up starts a broker of its own.",
        ) from None


def check_address(settings: Settings) -> None:
    """Raises Problem where the web process could not listen."""
    host, port = settings.host, settings.port
    try:
        broker.try_port(port, host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Problem(
                f"Port {port} on {host} is taken.",
                f"Stop the program that listens there (ss -ltnp 'sport = :{port}' names it), "
                f"or choose another port: --port {broker.free_port()} or REEF_PORT.",
            ) from None
        if error.errno == errno.EACCES:
            advice = "Choose one above 1023 (--port or REEF_PORT); docs/operations.md has proxies for the others."
            raise Problem(f"This user may not listen on port {port}.", advice) from None
        raise Problem(
            f"{host} is no address of this machine: {error.strerror or error}.",
            "--host (REEF_HOST) takes one of those that `ip -brief address` lists, or 0.0.0.0 for all of them.",
        ) from None
