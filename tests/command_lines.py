"""Command lines of `coral-reef` as files of deploy/ write them."""

from __future__ import annotations

from cli.main import main


def parse(command: list[str]) -> None:
    """Parse a command line with click, running nothing. Raises click.UsageError."""
    with main.make_context("coral-reef", list(command)) as context:
        # click keeps the words after the group's own options here until the group is invoked
        words = [*context._protected_args, *context.args]
        name, found, rest = main.resolve_command(context, words)
        assert found is not None
        found.make_context(name, list(rest), parent=context).close()
