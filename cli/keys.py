"""`coral-reef keys`: API keys are made, listed and revoked here. A key's text is shown once and stored as a digest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click
import sqlalchemy as sa

from cli.errors import Problem
from cli.options import data_dir_option, settings_with
from cli.outside import bring_up_to_date
from cli.show import plain_console, table
from reef import access
from reef.records.database import Database
from reef.settings import Settings


@click.group()
def keys() -> None:
    """API keys for clients beyond this machine."""


@keys.command("create")
@click.argument("name")
@data_dir_option
def create(name: str, data_dir: object) -> None:
    """Make a key called NAME and print it; it cannot be shown again."""
    with records(settings_with(data_dir=data_dir)) as database:
        try:
            secret, record = access.create_key(database, name)
        except access.TooManyKeys as error:
            raise Problem(str(error)) from None
    click.echo(secret)
    click.echo(f"Keep it: only its digest is stored. Revoke it with: coral-reef keys revoke {record.id}", err=True)


@keys.command("list")
@data_dir_option
def list_keys(data_dir: object) -> None:
    """List the keys (not their text)."""
    rows = table("id", "name", "created", "revoked")
    with records(settings_with(data_dir=data_dir)) as database:
        for key in access.list_keys(database):
            rows.add_row(key.id, key.name, _when(key.created_at), _when(key.revoked_at))
    plain_console().print(rows if rows.row_count else "There are no API keys. Make one: coral-reef keys create NAME")


@keys.command("revoke")
@click.argument("key_id")
@data_dir_option
def revoke(key_id: str, data_dir: object) -> None:
    """Make a key useless from now on. KEY_ID is in the list."""
    with records(settings_with(data_dir=data_dir)) as database:
        try:
            access.revoke_key(database, key_id)
        except access.UnknownKey:
            raise Problem(f"There is no API key {key_id}.", "coral-reef keys list shows their ids.") from None
    click.echo("Revoked.")


@contextmanager
def records(settings: Settings) -> Iterator[Database]:
    """The database, brought up to date. Raises Problem when it cannot be used."""
    if not settings.database_url:
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Problem(f"The data directory {settings.data_dir} cannot be made: {error.strerror}.") from None
    bring_up_to_date(settings)
    database = Database(settings.sqlalchemy_url)
    try:
        yield database
    except sa.exc.SQLAlchemyError as error:
        raise Problem(f"The database refused: {getattr(error, 'orig', None) or error}") from None
    finally:
        database.dispose()


def _when(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
