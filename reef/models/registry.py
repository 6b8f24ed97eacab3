"""The table of models: what is known about each, whatever its format. Follows the directory; never reads a weight.

A file that appears in the directory gets a row, one that goes loses it. A row without a file is kept only for what
somebody should know: why the last try to fetch it failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from reef.models.errors import ModelError, ModelMissing
from reef.models.formats import Format
from reef.models.licences import licence_of
from reef.models.store import ModelStore
from reef.records.database import Database
from reef.records.tables import models

ERROR_CHARS_MAX = 500
LICENCE_CHARS_MAX = 100
USED_STEP_S = 60.0
"""A use is written down again only after so long."""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    name: str
    format: Format
    path: str = ""
    source: str = ""
    licence: str = ""
    quantisation: str = ""
    size_bytes: int = 0
    sha256: str = ""
    base: str = ""
    pinned: bool = False
    error: str = ""
    added_at: float = 0.0
    used_at: float = 0.0


class Registry:
    """Safe to share between threads and processes."""

    def __init__(self, database: Database, store: ModelStore, clock: Callable[[], float] = time.time) -> None:
        self.database, self.store, self.clock = database, store, clock

    def all(self) -> dict[str, ModelRecord]:
        """Every row as it stands, by name."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(models).order_by(models.c.name)).mappings()
            return {row["name"]: ModelRecord(**row) for row in rows}

    def refresh(self) -> dict[str, ModelRecord]:
        """Look into the directory and bring the table up to date. Writes only where something is different."""
        known, here = self.all(), {record.name: record for record in self._on_disk()}
        now = self.clock()
        fresh = []
        for name, record in here.items():
            merged = _merge(record, known.get(name), now)
            if merged != known.get(name):
                fresh.append(merged)
        gone = [name for name, record in known.items() if name not in here and (record.path or not record.error)]
        if fresh or gone:
            self._write(fresh, gone)
        return self.all() if fresh or gone else known

    def _write(self, fresh: list[ModelRecord], gone: list[str]) -> None:
        try:
            with self.database.write() as connection:
                connection.execute(models.delete().where(models.c.name.in_(gone + [one.name for one in fresh])))
                for record in fresh:
                    connection.execute(models.insert().values(**msgspec.structs.asdict(record)))
        except IntegrityError:
            return  # another process looked at the same moment and was faster

    def pin(self, name: str, pinned: bool) -> ModelRecord:
        """Keep a model on disk, or let it go when room is needed. Raises ModelMissing."""
        self.refresh()
        self._update(name, pinned=pinned)
        found = self.all().get(name)
        if found is None or not found.path:
            raise ModelMissing(f"There is no model {name!r} on this machine.")
        return found

    def fetched(self, name: str, source: str) -> None:
        """A model has come, from there."""
        self.refresh()
        self._update(name, source=source, error="", used_at=self.clock())

    def failed(self, name: str, error: str, form: Format = "gguf") -> None:
        """The last try to fetch or load this model failed, for that reason."""
        error = error[:ERROR_CHARS_MAX]
        with self.database.write() as connection:
            done = connection.execute(models.update().where(models.c.name == name).values(error=error))
            if done.rowcount == 0:
                now = self.clock()
                record = ModelRecord(name=name, format=form, error=error, added_at=now, used_at=now)
                connection.execute(models.insert().values(**msgspec.structs.asdict(record)))

    def used(self, names: Iterable[str]) -> None:
        """These models serve now."""
        now = self.clock()
        with self.database.write() as connection:
            connection.execute(
                models.update()
                .where(models.c.name.in_(list(names)), models.c.used_at < now - USED_STEP_S)
                .values(used_at=now, error="")
            )

    def forget(self, name: str) -> None:
        """The model is gone, and so is what was said about it."""
        with self.database.write() as connection:
            connection.execute(models.delete().where(models.c.name == name))

    def _update(self, name: str, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(models.update().where(models.c.name == name).values(**values))

    def _on_disk(self) -> list[ModelRecord]:
        found = []
        for name, path in self.store.files().items():
            try:
                size = path.stat().st_size
                facts = self.store.facts(path)
            except FileNotFoundError:
                continue
            except ModelError as error:
                broken = ModelRecord(name=name, format=_by_suffix(path), path=str(path), size_bytes=size)
                found.append(msgspec.structs.replace(broken, error=str(error)[:ERROR_CHARS_MAX]))
                continue
            entry = self.store.catalogue.get(name)
            found.append(
                ModelRecord(
                    name=name,
                    format=facts.format,
                    path=str(path),
                    licence=(entry.licence if entry else facts.licence)[:LICENCE_CHARS_MAX],
                    quantisation=facts.quantisation,
                    size_bytes=size,
                    sha256=self.store.known_sha256(path),
                    base=facts.base,
                )
            )
        return found + self._encoders()

    def _encoders(self) -> list[ModelRecord]:
        found = []
        for name, folder in self.store.encoders().items():
            size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
            found.append(
                ModelRecord(
                    name=name,
                    format="encoder",
                    path=str(folder),
                    licence=licence_of(folder)[:LICENCE_CHARS_MAX],
                    size_bytes=size,
                )
            )
        return found


def _by_suffix(path: Path) -> Format:
    suffixes: dict[str, Format] = {".tflite": "tflite", ".onnx": "onnx"}
    return suffixes.get(path.suffix, "gguf")


def _merge(record: ModelRecord, known: ModelRecord | None, now: float) -> ModelRecord:
    """What the disk says, with what only the table knows."""
    if known is None:
        return msgspec.structs.replace(record, added_at=now, used_at=now)
    same = (known.path, known.size_bytes) == (record.path, record.size_bytes)
    return msgspec.structs.replace(
        record,
        source=known.source if same else "",
        pinned=known.pinned,
        error=record.error or (known.error if same else ""),
        sha256=record.sha256 or (known.sha256 if same else ""),
        added_at=known.added_at,
        used_at=known.used_at,
    )
