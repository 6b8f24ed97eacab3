"""The command `coral-reef`. One module per command; each imports what it needs only when it is called.

Exit status: 0 done, 1 something is wrong (told with what to do), 2 the command line is wrong.
"""

from __future__ import annotations

import click

from cli.alive import alive
from cli.config import config
from cli.doctor import doctor
from cli.keys import keys
from cli.models import models
from cli.services import flower, migrate, sweeper, web, worker
from cli.status import status
from cli.up import up


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name=None, version="0.1.0", prog_name="coral-reef")
def main() -> None:
    """Coral Reef: a multi-persona chat server for the machine you have.

    `coral-reef up` starts everything. Settings come from the environment (REEF_...); see docs/operations.md.
    """


for command in (up, web, worker, sweeper, flower, migrate, alive, status, doctor, models, keys, config):
    main.add_command(command)
