"""The command `coral-reef`. One module per command, imported only when that command is called.

Exit status: 0 done, 1 something is wrong (told with what to do), 2 the command line is wrong.
"""

from __future__ import annotations

from importlib import import_module

import click

from app import __version__

MODULES = {
    "up": "cli.up",
    "status": "cli.status",
    "doctor": "cli.doctor",
    "devices": "cli.devices",
    "models": "cli.models",
    "plan": "cli.plan",
    "quantize": "cli.quantize",
    "knowledge": "cli.knowledge",
    "ingest": "cli.ingest",
    "placement": "cli.placement",
    "keys": "cli.keys",
    "config": "cli.config",
    "web": "cli.services",
    "gateway": "cli.services",
    "worker": "cli.services",
    "sweeper": "cli.services",
    "flower": "cli.services",
    "migrate": "cli.services",
    "alive": "cli.alive",
    "acl": "cli.acl",
}
"""Where each command lives, under its own name; `--help` lists them in this order."""


class _Commands(click.Group):
    """Finds a command by importing its module: `status` should not wait for what `up` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        command: click.Command = getattr(import_module(MODULES[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name=None, version=__version__, prog_name="coral-reef")
def main() -> None:
    """Coral Reef: a multi-persona chat server for the machine you have.

    `coral-reef up` starts everything. Settings come from the environment (REEF_...); see docs/operations.md.
    """


if __name__ == "__main__":  # `python -m cli.main`: doing nothing, successfully, would be the worst answer
    main(prog_name="coral-reef")
