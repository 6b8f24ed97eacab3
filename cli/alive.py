"""`coral-reef alive`: the health check of a container that has no HTTP port. Prints one line; exit status 0 or 1."""

from __future__ import annotations

import socket

import click
import redis

from cli import gateway
from cli.errors import Problem
from cli.options import settings_with
from cli.outside import check_broker
from reef import keys
from reef.nodes import read_reports
from reef.records.database import Database


@click.command()
@click.option("--pool", help="Ask for the workers of this pool on this host as well.")
@click.option("--gateway", "of_gateway", is_flag=True, help="Ask whether this host's gateway takes sockets as well.")
def alive(pool: str | None, of_gateway: bool) -> None:
    """Check that broker and database answer and, with --pool, that this host's workers report."""
    settings = settings_with()
    if not settings.redis_url:
        raise Problem("REEF_REDIS_URL is not set.", "`coral-reef status` is for a reef that `up` runs.")
    check_broker(settings)
    database = Database(settings.sqlalchemy_url)
    database.ping()
    database.dispose()
    if pool is not None:
        _check_workers(settings.redis_url, pool)
    if of_gateway and not gateway.answers(settings):
        raise Problem(
            "The gateway does not answer.", f"Does it share {settings.data_dir} and its user with this check?"
        )
    click.echo("alive")


def _check_workers(redis_url: str, pool: str) -> None:
    with redis.Redis.from_url(redis_url, socket_timeout=3, socket_connect_timeout=3) as client:
        reports = read_reports(client).values()
    here = socket.gethostname()
    if not any(report.pool == pool and report.host == here and report.state != "failed" for report in reports):
        raise Problem(f"No worker of pool {pool} on this host has reported in the last {keys.NODE_TTL_S:.0f} s.")
