"""`coral-reef config show`: every setting, its variable and the value in use. Passwords are not shown."""

from __future__ import annotations

import click

from cli.options import data_dir_option, settings_with, without_password
from cli.show import plain_console, table
from reef.settings import PREFIX, Settings, unknown_variables

HIDDEN = "(set, not shown)"


@click.group()
def config() -> None:
    """Show the configuration in use."""


@config.command("show")
@data_dir_option
def show(data_dir: object) -> None:
    """List every setting with its environment variable."""
    settings = settings_with(data_dir=data_dir)
    default = Settings()
    rows = table("variable", "value", "from")
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        origin = "default" if value in (getattr(default, name), _absolute(getattr(default, name))) else "set"
        rows.add_row(PREFIX + name.upper(), public_text(name, value), origin)
    plain_console().print(rows)
    for sentence in unknown_variables():
        click.echo(sentence, err=True)


def public_text(name: str, value: object) -> str:
    """A setting's value without the secrets in it."""
    text = str(value)
    if name.endswith("_key") and name != "require_api_key":
        return HIDDEN if text else ""
    return without_password(text) if name.endswith("_url") else text


def _absolute(value: object) -> object:
    return value.absolute() if hasattr(value, "absolute") else value
