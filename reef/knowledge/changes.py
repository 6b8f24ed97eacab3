"""The rules by which a document goes from one state to another, and what that means for others of the same content
or the same name. Every function works within its caller's transaction and gives the changes to be told.

Same content: of several documents with the same bytes and the same stores one is worked on; the others wait as
`queued` with `duplicate_of` and share its fate. When it leaves, the oldest of them takes its place and is worked on.
Same name: in each store a name stands for the newest document that was indexed under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from reef.knowledge.model import MOVING_STATES
from reef.knowledge.names import stem_and_ending
from reef.knowledge.progress import Change
from reef.ledger import Claim
from reef.records.tables import document_stores, documents, jobs, uploads

IDS_AT_ONCE = 500
_LOCK = "SELECT pg_advisory_xact_lock(7461726566)"
ALIVE = ("queued", "parsing", "embedding", "indexing", "indexed")
_CHANGE = [documents.c.id.label("document_id"), documents.c.state_at.label("at")] + [
    documents.c[name] for name in ("upload_id", "name", "state", "reason", "reason_code", "duplicate_of")
]


class Fenced(Exception):
    """The job belongs to another claim now, or has ended: nothing may be written for it."""


def alone(connection: sa.Connection) -> None:
    """From here to its end this transaction is the only one that decides about documents of the same content or name.

    To be called before anything else is locked. SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(_LOCK))


def check_claim(connection: sa.Connection, claim: Claim) -> None:
    """Hold the job's row until the end of this transaction. Raises Fenced where the claim is not the newest."""
    mine = sa.select(jobs.c.id).where(jobs.c.id == claim.job.id, jobs.c.token == claim.token, jobs.c.state == "running")
    if connection.execute(mine.with_for_update()).scalar() is None:
        raise Fenced(claim.job.id)


def move(
    connection: sa.Connection, which: sa.ColumnElement[bool], state: str, now: float, **values: Any
) -> list[Change]:
    """Put documents into a state; no job works on them then, unless `job_id` names one."""
    values = {"job_id": None, "reason": None, "reason_code": None} | values | {"state": state, "state_at": now}
    done = connection.execute(documents.update().where(which).values(values).returning(*_CHANGE)).mappings()
    return [Change(**row) for row in done]


def admit(connection: sa.Connection, document_id: str, now: float) -> list[Change]:
    """A document has its bytes: it waits to be worked on, or shares the fate of one with the same content."""
    row = _row(connection, document_id)
    original = _same_content(connection, row)
    which = documents.c.id == document_id
    if original is None:
        return move(connection, which, "queued", now, duplicate_of=None)
    changes = move(connection, which, "queued", now, duplicate_of=original["id"])
    if original["state"] == "indexed":
        changes = _follow_indexed(connection, [document_id], now)
    return changes


def _same_content(connection: sa.Connection, row: Any) -> Any:
    """The document that is, or will be, searched for these bytes in these stores."""
    candidates = connection.execute(
        sa.select(documents.c.id, documents.c.state)
        .where(
            documents.c.sha256 == row["sha256"],
            documents.c.id != row["id"],
            documents.c.duplicate_of.is_(None),
            documents.c.state.in_(ALIVE),
        )
        .order_by(documents.c.created_at, documents.c.id)
    ).mappings()
    stores = stores_of(connection, row["id"])
    return next((other for other in candidates if stores_of(connection, other["id"]) == stores), None)


def admit_again(connection: sa.Connection, now: float) -> list[Change]:
    """Documents that wait for one of the same content which has come to its end, or is gone: their lot is cast anew."""
    original = documents.alias("original")
    goes_on = sa.exists().where(original.c.id == documents.c.duplicate_of, original.c.state.in_(MOVING_STATES))
    query = sa.select(documents.c.id).where(
        documents.c.state == "queued", documents.c.duplicate_of.is_not(None), ~goes_on
    )
    ids = connection.execute(query.order_by(documents.c.created_at, documents.c.id)).scalars().all()
    return [change for document_id in ids for change in admit(connection, document_id, now)]


def indexed(connection: sa.Connection, document_id: str, now: float) -> list[Change]:
    """A document is in the index: from now on it is found, in place of older ones of its name."""
    row = _row(connection, document_id)
    changes = move(connection, documents.c.id == document_id, "indexed", now, indexed_at=now)
    changes += _take_places(connection, row, now)
    return changes + _follow_indexed(connection, _followers(connection, row, ("queued",)), now)


def failed(connection: sa.Connection, document_id: str, code: str, reason: str, now: float) -> list[Change]:
    """A document cannot be indexed, and neither can those with the same content and the same ending of their name.

    Under another ending the same bytes may well be readable: one of those is tried next.
    """
    row = _row(connection, document_id)
    followers = documents.c.id.in_(_followers(connection, row, ("queued",)))
    names = connection.execute(sa.select(documents.c.id, documents.c.name).where(followers)).all()
    like = [one.id for one in names if _ending(one.name) == _ending(row["name"])]
    which = documents.c.id.in_([document_id, *like])
    told = move(connection, which, "failed", now, reason=reason, reason_code=code)
    return told + promote(connection, document_id, now)


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def leave(
    connection: sa.Connection, document_ids: Sequence[str], state: str, now: float, **values: Any
) -> list[Change]:
    """Documents are cancelled, replaced or deleted; one of those with the same content takes the place of each."""
    told: list[Change] = []
    follower = documents.alias("follower")
    for start in range(0, len(document_ids), IDS_AT_ONCE):
        some = documents.c.id.in_(document_ids[start : start + IDS_AT_ONCE])
        told += move(connection, sa.and_(some, documents.c.state.not_in((state, "deleted"))), state, now, **values)
        same = sa.and_(follower.c.sha256 == documents.c.sha256, follower.c.duplicate_of == documents.c.id)
        query = sa.select(documents.c.id).join(follower, same).where(some, follower.c.state.in_(("queued", "indexed")))
        for document_id in connection.execute(query.distinct()).scalars().all():
            told += promote(connection, document_id, now)
    return told


def promote(connection: sa.Connection, document_id: str, now: float) -> list[Change]:
    """Others of the same content can no longer rely on this document: the oldest of them is worked on instead."""
    followers = _followers(connection, _row(connection, document_id), ("queued", "indexed"))
    if not followers:
        return []
    first, rest = followers[0], followers[1:]
    changes = move(connection, documents.c.id == first, "queued", now, duplicate_of=None)
    return changes + move(connection, documents.c.id.in_(rest), "queued", now, duplicate_of=first)


def _followers(connection: sa.Connection, row: Any, states: Sequence[str]) -> list[str]:
    query = (
        sa.select(documents.c.id)
        .where(
            documents.c.sha256 == row["sha256"],  # only this column has an index
            documents.c.duplicate_of == row["id"],
            documents.c.state.in_(states),
        )
        .order_by(documents.c.created_at, documents.c.id)
    )
    return list(connection.execute(query).scalars())


def _follow_indexed(connection: sa.Connection, document_ids: Sequence[str], now: float) -> list[Change]:
    changes: list[Change] = []
    for document_id in document_ids:
        changes += move(connection, documents.c.id == document_id, "indexed", now, indexed_at=now)
        changes += _take_places(connection, _row(connection, document_id), now)
    return changes


def _take_places(connection: sa.Connection, row: Any, now: float) -> list[Change]:
    """In each of its stores this document stands for its name, unless a newer one does."""
    others = connection.execute(
        sa.select(documents.c.id, documents.c.created_at, documents.c.upload_id).where(
            documents.c.name == row["name"],
            documents.c.id != row["id"],
            documents.c.state == "indexed",
            documents.c.sha256 != row["sha256"],  # the same text again takes nobody's place
        )
    ).mappings()
    changes: list[Change] = []
    for other in others.all():
        newer = (other["created_at"], other["id"]) > (row["created_at"], row["id"])
        loser, winner = (row, other) if newer else (other, row)
        given_up = _give_up_stores(connection, loser["id"], stores_of(connection, winner["id"]), now)
        if given_up is not None:
            changes += given_up
            _count_replaced(connection, winner["upload_id"])
    return changes


def _count_replaced(connection: sa.Connection, upload_id: str | None) -> None:
    count = uploads.c.replaced + 1
    connection.execute(uploads.update().where(uploads.c.id == upload_id).values(replaced=count))


def _give_up_stores(connection: sa.Connection, document_id: str, stores: set[str], now: float) -> list[Change] | None:
    """None where it had none of these stores."""
    shared = stores_of(connection, document_id) & stores
    if not shared:
        return None
    own = document_stores.c.document_id == document_id
    if shared == stores_of(connection, document_id):
        return give_way(connection, document_id, "A newer upload of this name took its place.", now)
    # what the index still has of it in those stores is not shown: the records decide
    connection.execute(document_stores.delete().where(own, document_stores.c.store.in_(shared)))
    return []


def give_way(connection: sa.Connection, document_id: str, reason: str, now: float) -> list[Change]:
    """Something else takes this document's place: its row stays for who looks for it, its original is let go of."""
    told = leave(connection, [document_id], "replaced", now, reason=reason)
    connection.execute(documents.update().where(documents.c.id == document_id).values(sha256=None))
    return told


def stores_of(connection: sa.Connection, document_id: str) -> set[str]:
    """The stores a document belongs to."""
    query = sa.select(document_stores.c.store).where(document_stores.c.document_id == document_id)
    return set(connection.execute(query).scalars())


def put_into(connection: sa.Connection, document_id: str, stores: Iterable[str]) -> None:
    """Add a document to these stores; none where its persona was deleted on the way."""
    rows = [{"document_id": document_id, "store": store} for store in stores]
    if rows:
        connection.execute(document_stores.insert(), rows)


def names_taken(connection: sa.Connection, upload_id: str | None, name: str, sha256: str | None) -> set[str]:
    """Names in this upload that a file may not get: those of files with other content, which it would replace.

    Looks at this name, and where it is taken, at those that are made from it. `sha256` None: its content is not known.
    """
    here = sa.and_(documents.c.upload_id == upload_id, documents.c.state.in_(("receiving", *ALIVE)))
    other = documents.c.sha256.is_distinct_from(sha256) if sha256 else sa.true()
    query = sa.select(documents.c.name).where(here, other)
    taken = set(connection.execute(query.where(documents.c.name == name)).scalars())
    if taken:
        stem, _ = stem_and_ending(name)
        numbered = documents.c.name.startswith(f"{stem} (", autoescape=True)
        taken |= set(connection.execute(query.where(numbered)).scalars())
    return taken


def _row(connection: sa.Connection, document_id: str) -> Any:
    return connection.execute(sa.select(documents).where(documents.c.id == document_id)).mappings().one()
