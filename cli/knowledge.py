"""`coral-reef knowledge ...`: the index of documents, held against the records and made anew from them.

Works while the reef serves; the vector store must run, ours or that of REEF_CHROMA_URL.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec
import sqlalchemy as sa

from cli.errors import Problem
from cli.options import data_dir_option, settings_with, without_password
from reef.knowledge import heartbeat
from reef.records.database import Database
from reef.settings import Settings
from workers import vector_server

if TYPE_CHECKING:
    from reef.knowledge.vectors import VectorIndex

NO_STORE = "Start the reef (coral-reef up; its pools embed and index need a device), or set REEF_CHROMA_URL."


@click.group()
def knowledge() -> None:
    """Look after what personas know from documents."""


@knowledge.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_dir_option
def check(as_json: bool, data_dir: object) -> None:
    """Compare the vector index with the records and change nothing. Exit status 1 when they differ."""
    from reef.knowledge.consistency import compare

    with _parts(settings_with(data_dir=data_dir)) as (database, vectors):
        found = compare(database, vectors, repair=False)
    _tell(msgspec.to_builtins(found), as_json)
    if not found.agree:
        raise Problem("The vector index differs from the records.", "Repair it: coral-reef doctor --repair")


@knowledge.command("rebuild")
@data_dir_option
def rebuild(data_dir: object) -> None:
    """Make the vector index anew from the records, store by store."""
    repair_index(settings_with(data_dir=data_dir), anew=True, as_json=False)


def repair_index(settings: Settings, *, anew: bool, as_json: bool) -> None:
    """Bring the vector index up to the records, and say what was done. Raises Problem."""
    from reef.knowledge import consistency

    def note(text: str) -> None:
        if not as_json:
            click.echo(text)

    began = time.monotonic()
    with _parts(settings) as (database, vectors):
        done: dict[str, object] = {}
        if anew:
            done["rebuilt"] = consistency.rebuild(database, vectors, note)
        done |= msgspec.to_builtins(consistency.compare(database, vectors, repair=True, note=note))
    _tell(done | {"took_s": round(time.monotonic() - began, 1)}, as_json)


@contextmanager
def _parts(settings: Settings) -> Iterator[tuple[Database, VectorIndex]]:
    from reef.knowledge.vectors import VectorIndex, VectorsRefused, VectorStoreDown

    url = settings.chroma_url
    if not url:
        endpoint = vector_server.remembered(settings.data_dir / "chroma")
        url = endpoint.url if endpoint is not None else ""
    if not url:
        raise Problem(f"No vector store was ever started in {settings.data_dir}.", NO_STORE)
    if silent := heartbeat.why_silent(url):
        raise Problem(f"The vector store at {without_password(url)} does not answer: {silent}", NO_STORE)
    database, vectors = Database(settings.sqlalchemy_url), VectorIndex(url)
    try:
        yield database, vectors
    except (VectorStoreDown, VectorsRefused) as error:
        raise Problem(str(error), "What was done so far stays; run the command again.") from None
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        shown = without_password(settings.sqlalchemy_url)
        raise Problem(f"The database {shown} cannot be used: {reason}", "Bring it up: coral-reef migrate") from None
    finally:
        vectors.close()
        database.dispose()


def _tell(report: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(", ".join(f"{name} {value}" for name, value in report.items()))
