"""`coral-reef placement ...`: which device does what and why, and an operator's say in it.

Works on the records alone, while the reef serves or not: a controller and the workers see what changed by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec
import sqlalchemy as sa

from cli.errors import Problem
from cli.machine import read_topology
from cli.options import data_dir_option, settings_with, without_password
from cli.show import plain_console, table
from reef.models import ModelError, ModelStore
from reef.placement.model import Place
from reef.placement.operator import Decisions, NotMovable, nodes_of
from reef.placement.store import Outdated, PlacementStore
from reef.records.database import Database
from reef.settings import Settings


@click.group()
def placement() -> None:
    """Show what each device serves and why; move a device, or give it back to its strategy."""


@placement.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_dir_option
def show(as_json: bool, data_dir: object) -> None:
    """Every decision that stands, with its reason."""
    settings = settings_with(data_dir=data_dir)
    order = {node: number for number, node in enumerate(nodes_of(read_topology(settings)))}
    with _store(settings) as store:
        places = [place for node, place in store.all().items() if node in order]
    places.sort(key=lambda place: order[place.node])
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(places), indent=2))
        return
    rows = table("device", "pool", "model", "tier", "serves", "by", "reason")
    for place in places:
        rows.add_row(
            place.node, place.pool, place.model or "", place.tier, _serves(place), place.decided_by, place.reason
        )
    plain_console().print(rows)
    if not places:
        click.echo("Nothing was decided: every pool has the devices that queues.yaml names.")


@placement.command("move")
@click.argument("node")
@click.option("--pool", default="", help="Serve this pool's queue.")
@click.option("--model", default="", help="With this model instead of the pool's own.")
@click.option("--persona", default="", help="For this persona alone.")
@data_dir_option
def move_device(node: str, pool: str, model: str, persona: str, data_dir: object) -> None:
    """Let a device serve something else until it is released. Without options it waits."""
    settings = settings_with(data_dir=data_dir)
    topology = read_topology(settings)
    with _store(settings) as store, _explained():
        decisions = Decisions(store, topology, ModelStore(settings.data_dir))
        made = decisions.move(node, pool=pool, model=model, persona=persona, alone=True)
    click.echo(f"{made.node}: {made.reason} Give it back with: coral-reef placement release {made.node}")


@placement.command("release")
@click.argument("node")
@data_dir_option
def release_device(node: str, data_dir: object) -> None:
    """Give a device back to its strategy, or to the pool that it belongs to."""
    settings = settings_with(data_dir=data_dir)
    topology = read_topology(settings)
    with _store(settings) as store, _explained():
        made = Decisions(store, topology, ModelStore(settings.data_dir)).release(node)
    click.echo(f"{made.node}: {made.reason}")


def _serves(place: Place) -> str:
    if place.peers:
        return f"stage {place.stage + 1} of {len(place.peers)}"
    served = [*place.routes, *(["any"] if place.general and place.pool else [])]
    return ", ".join(served) or "nothing"


@contextmanager
def _store(settings: Settings) -> Iterator[PlacementStore]:
    database = Database(settings.sqlalchemy_url)
    try:
        yield PlacementStore(database)
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise Problem(
            f"The database {without_password(settings.sqlalchemy_url)} cannot be used: {reason}",
            "Has the reef been started here once? --data-dir names another directory.",
        ) from None
    finally:
        database.dispose()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (NotMovable, ModelError) as error:
        raise Problem(str(error)) from None
    except Outdated:
        raise Problem("The controller decided about this device just now.", "Try again.") from None
