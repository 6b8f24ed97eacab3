"""Settings as commands see them: the environment, then the options of the command line on top."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.errors import Problem
from reef.settings import Settings, SettingsError, load_settings

SHIPPED_QUEUES = Path(__file__).resolve().parents[1] / "queues.yaml"
_PASSWORD = re.compile(r"://.*@")
F = TypeVar("F", bound=Callable[..., Any])


def data_dir_option(command: F) -> F:
    """`--data-dir`, for commands that look into a data directory."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where database, models and logs live (REEF_DATA_DIR; default: data).",
    )(command)


def settings_with(**options: Any) -> Settings:
    """The settings, with every option that was given in its place. Raises Problem for an unusable value."""
    try:
        settings = load_settings()
    except SettingsError as error:
        raise Problem(str(error), "docs/operations.md lists every setting and its values.") from None
    if settings.queues_file == Path("queues.yaml").absolute() and not settings.queues_file.exists():
        # started from another directory: the file that came with the program
        settings = settings.changed(queues_file=SHIPPED_QUEUES)
    given = {name: value for name, value in options.items() if value is not None}
    if "data_dir" in given:
        given["data_dir"] = given["data_dir"].absolute()
    return settings.changed(**given)


def without_password(url: str) -> str:
    """A URL for people: user and password are left out, whatever else is wrong with it."""
    return _PASSWORD.sub("://***@", url)
