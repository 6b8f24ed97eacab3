"""API keys: made once, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid

import msgspec
import sqlalchemy as sa

from reef.records.database import Database
from reef.records.tables import api_keys

KEY_PREFIX = "reef_"
KEYS_MAX = 1000


class TooManyKeys(Exception):
    """The limit of API keys is reached; revoke one first."""


class UnknownKey(KeyError):
    """No API key has this id."""


class ApiKey(msgspec.Struct, frozen=True):
    """A key without its secret. Times are Unix seconds."""

    id: str
    name: str
    created_at: float
    revoked_at: float | None


def _digest(key: str) -> str:
    # the key has 256 random bits: a plain hash is as strong as a slow one
    return hashlib.sha256(key.encode()).hexdigest()


def create_key(database: Database, name: str) -> tuple[str, ApiKey]:
    """Make a key: its secret text, which nobody can read again, and its record. Raises TooManyKeys."""
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    record = ApiKey(uuid.uuid4().hex, name[:80], time.time(), None)
    with database.write() as connection:
        if (connection.execute(sa.select(sa.func.count()).select_from(api_keys)).scalar() or 0) >= KEYS_MAX:
            raise TooManyKeys(f"there are {KEYS_MAX} API keys; revoke some first")
        connection.execute(
            api_keys.insert().values(
                id=record.id, name=record.name, digest=_digest(secret), created_at=record.created_at
            )
        )
    return secret, record


def list_keys(database: Database) -> list[ApiKey]:
    """All keys, newest first."""
    columns = [api_keys.c[name] for name in ApiKey.__struct_fields__]
    with database.read() as connection:
        rows = connection.execute(sa.select(*columns).order_by(api_keys.c.created_at.desc())).mappings()
        return [ApiKey(**row) for row in rows]


def revoke_key(database: Database, key_id: str) -> None:
    """Make a key useless from now on. Raises UnknownKey."""
    with database.write() as connection:
        done = connection.execute(api_keys.update().where(api_keys.c.id == key_id).values(revoked_at=time.time()))
        if done.rowcount != 1:
            raise UnknownKey(key_id)


def verify_key(database: Database, secret: str) -> ApiKey | None:
    """The record of a valid key, None for any other text."""
    if not secret.startswith(KEY_PREFIX) or len(secret) > 200:
        return None
    columns = [api_keys.c[name] for name in ApiKey.__struct_fields__]
    query = sa.select(*columns).where(api_keys.c.digest == _digest(secret), api_keys.c.revoked_at.is_(None))
    with database.read() as connection:
        row = connection.execute(query).mappings().first()
        return ApiKey(**row) if row else None
