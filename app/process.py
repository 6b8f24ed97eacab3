"""What a process of the front door does before it serves: settings, log, open files. Imports nothing of theirs."""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
from typing import NoReturn

from reef.settings import Settings, SettingsError, load_settings

FILES_WANTED = 65_536
"""Open files: a socket per client, and Debian's default of 1024 is not many."""
UNUSABLE = 2
"""Exit status of a process that cannot be configured."""


def begin() -> Settings:
    """The settings, once logging and the file limit are set. Exits with a sentence where they cannot be used."""
    try:
        settings = load_settings()
    except SettingsError as error:
        _leave(str(error))
    if not settings.redis_url:
        _leave("REEF_REDIS_URL is not set. `coral-reef up` starts a broker and this process with it.")
    _raise_file_limit()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    return settings


def files_max() -> int:
    """Files that this process may have open."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES_WANTED if soft == resource.RLIM_INFINITY else soft


def _leave(why: str) -> NoReturn:
    print(why, file=sys.stderr)  # noqa: T201 - there is no log yet
    sys.exit(UNUSABLE)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
