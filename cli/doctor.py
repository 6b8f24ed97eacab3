"""`coral-reef doctor`: checks the machine and the configuration, and says what is wrong and what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from cli.errors import Problem
from cli.options import data_dir_option, settings_with
from cli.show import plain_console

if TYPE_CHECKING:
    from cli.checks import Check

MARKS = {"good": "[green]✓[/]", "warning": "[yellow]![/]", "bad": "[red]✗[/]"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--repair", is_flag=True, help="Bring the vector index of a running reef up to the records.")
@click.option("--rebuild", is_flag=True, help="With --repair: make the whole vector index anew.")
@data_dir_option
def doctor(as_json: bool, repair: bool, rebuild: bool, data_dir: object) -> None:
    """Check this machine and the configuration. Exit status 1 when something is wrong."""
    if rebuild and not repair:
        raise click.UsageError("--rebuild goes with --repair.")
    if repair:
        from cli.knowledge import repair_index

        repair_index(settings_with(data_dir=data_dir), anew=rebuild, as_json=as_json)
        return
    console = plain_console()
    findings = []
    for check in _checks(data_dir):
        findings.append(check)
        if not as_json:
            console.print(f"{MARKS[check.verdict]} {check.name:<15}", end="")
            console.print(check.text, markup=False)
            if check.advice:
                console.print(f"  {'':<15}→ {check.advice}", markup=False)
    bad = sum(check.verdict == "bad" for check in findings)
    if as_json:
        click.echo(json.dumps({"ok": bad == 0, "checks": msgspec.to_builtins(findings)}, indent=2, ensure_ascii=False))
    else:
        console.print(f"\n{bad} of {len(findings)} checks failed." if bad else "\nEverything is in order.")
    sys.exit(1 if bad else 0)


def _checks(data_dir: object) -> Iterator[Check]:
    """Every check; where the settings cannot be used there is nothing else to look at."""
    from cli.checks import Check, all_checks

    try:
        settings = settings_with(data_dir=data_dir)
    except Problem as problem:
        yield Check("settings", "bad", problem.message, problem.advice)
        return
    yield from all_checks(settings)
