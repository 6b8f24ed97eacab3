"""The models of a data directory as commands see them: with the running reef, or alone where none runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import sqlalchemy as sa

from cli.data_directory import DataDirectory
from cli.errors import Problem
from cli.outside import database_problems
from cli.reef_client import ReefClient
from reef.models import ModelError, ModelStore
from reef.models.cache import ModelCache, Removed, reasons
from reef.models.fetch import MakeRoom
from reef.models.registry import ModelRecord, Registry
from reef.models.serving import named, placed
from reef.placement.store import PlacementStore
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import TopologyError, load_topology


class LocalModels:
    """What can be said and done about models from a command line on this machine."""

    def __init__(self, settings: Settings, *, alone: bool = False) -> None:
        """`alone`: no reef serves here yet, whatever the run file says; it is being started."""
        self.settings, self._alone = settings, alone
        self.store = ModelStore(settings.data_dir)
        self.removed: list[Removed] = []
        """What had to go for what came."""

    def running(self) -> ReefClient | None:
        """The reef that runs in this data directory."""
        directory = DataDirectory(self.settings.data_dir)
        record = None if self._alone else directory.read_run_file()
        if record is None or not record.alive:
            return None
        return ReefClient(record.url, directory.read_status_key())

    def states(self) -> list[dict[str, Any]] | None:
        """The running reef's own list of models; None where none runs or it does not answer."""
        try:
            client = self.running()
            return client.models() if client else None
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    def records(self) -> dict[str, ModelRecord]:
        """The table of models, brought up to date; empty before the first start."""
        with self._registry() as registry:
            return registry.refresh() if registry else {}

    def note_fetched(self, name: str, source: str) -> None:
        """Tell the table that a model came; before the first start there is none to tell."""
        with self._registry() as registry:
            if registry:
                registry.fetched(name, source)

    def pin(self, name: str, pinned: bool) -> None:
        """Raises Problem."""
        with self._registry() as registry:
            if registry is None:
                raise Problem("There is no database yet to remember it in.", "Run `coral-reef migrate`, then again.")
            try:
                registry.pin(name, pinned)
            except ModelError as error:
                raise Problem(str(error)) from None

    def make_room(self) -> MakeRoom:
        """For ModelStore.pull: the disk cache's limit, with what must stay on this machine."""
        cache = ModelCache(self.store, self.settings.model_cache_bytes)
        return cache.room_maker(
            self.kept, lambda: {name: one.used_at for name, one in self.records().items()}, self.removed.append
        )

    def kept(self) -> dict[str, str]:
        """Models that must stay, each with the reason. Raises ModelError where a running reef does not say."""
        states = self.states()
        if states is None and self.running() is not None:
            raise ModelError("The running reef does not say which models it uses, so none is taken away.")
        pinned = [name for name, record in self.records().items() if record.pinned]
        found = reasons(loaded=[], placed=self._placed(), pinned=pinned, named=self._named())
        return found | {one["name"]: one["stays"] for one in states or () if one["stays"]}

    def remove(self, name: str) -> None:
        """Take a model from the disk. Raises Problem where it is needed or not there."""
        client = self.running()
        try:
            why = client.remove_model(name) if client is not None else self._remove_alone(name)
        except (httpx.HTTPError, ValueError) as error:
            raise Problem(f"The running reef does not answer: {error}", "Try again, or stop it first.") from None
        if why:
            raise Problem(why)

    def _remove_alone(self, name: str) -> str:
        try:
            if (why := self.kept().get(name)) is not None:
                return f"{name} {why}, so it stays."
            self.store.remove(name)
        except ModelError as error:
            return str(error)
        with self._registry() as registry:
            if registry:
                registry.forget(name)
        return ""

    def _named(self) -> list[str]:
        try:
            topology = load_topology(self.settings.queues_file, self.settings.model)
        except TopologyError as error:
            raise ModelError(f"queues.yaml cannot be read, so nobody knows which models it names: {error}") from None
        return sorted(self.store.named_by(named(topology)))

    def _placed(self) -> list[str]:
        with self._registry() as registry:
            if registry is None:
                return []
            return sorted(self.store.named_by(placed(PlacementStore(registry.database))))

    @contextmanager
    def _registry(self) -> Iterator[Registry | None]:
        """The table of models, where there is a database of this version."""
        settings = self.settings
        if not settings.database_url and not (settings.data_dir / "reef.db").is_file():
            yield None
            return
        with database_problems(settings):
            database = Database(settings.sqlalchemy_url)
        try:
            with database_problems(settings), database.read() as connection:
                has_table = sa.inspect(connection).has_table("models")
            if not has_table:
                yield None
                return
            yield Registry(database, self.store)
        finally:
            database.dispose()
