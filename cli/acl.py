"""`coral-reef acl`: users, passwords and rights for a broker that several machines share."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from cli.errors import Problem
from cli.machine import read_topology
from cli.options import settings_with
from reef.broker_roles import ADMIN, ROLES, acl_file
from workers.private_file import write_private

FILE = "users.acl"


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--broker", default="redis://127.0.0.1:6379/0", show_default=True, help="Address without a user.")
def acl(directory: Path, broker: str) -> None:
    """Write users.acl for Redis or Valkey and, for each role, ROLE.env with its URL. Makes new passwords."""
    topology = read_topology(settings_with())
    scheme, separator, rest = broker.partition("://")
    if scheme not in ("redis", "rediss") or not separator or "@" in rest:
        raise Problem(
            f"--broker {broker} is no address of a broker.", "Write redis://HOST:6379/0 or rediss://HOST:6380/0."
        )
    if (directory / FILE).exists():
        raise Problem(
            f"{directory / FILE} is there already; another run would make its passwords worthless.",
            "Delete it to make new ones, or name another directory.",
        )
    passwords = {name: secrets.token_urlsafe(32) for name in (*ROLES, ADMIN)}
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, password in passwords.items():
            write_private(directory / f"{name}.env", f"REEF_REDIS_URL={scheme}://{name}:{password}@{rest}\n".encode())
        # the server runs as another user: digests may be read by it
        (directory / FILE).write_text(acl_file(topology, passwords), encoding="ascii")
    except OSError as error:
        raise Problem(f"{directory} cannot be written: {error.strerror}.") from None
    click.echo(f"{directory / FILE}: for the broker's configuration, `aclfile PATH` instead of `requirepass`")
    for role in (*ROLES, ADMIN):
        click.echo(f"{directory / role}.env: keep it where only that role's processes read it")
