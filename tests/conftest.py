"""Real services for the tests: each started on a free port when a test asks for it, and stopped at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import settings
from postgres import running_postgres
from services import ChromaServer, RedisServer
from whole_product import SIMULATED_QUEUES, Reef, StartReef, real_reef, running_reef

from reef.knowledge.vectors import VectorIndex
from reef.records.database import Database, migrate

if TYPE_CHECKING:
    from workshop import Workshop

ROOT = Path(__file__).parent.parent
# how long one example takes says how busy the machine is
settings.register_profile("reef", deadline=None)
settings.load_profile("reef")

# an example that takes 0.2 s because the machine stood still is no finding
hypothesis.settings.register_profile("reef", deadline=None)
hypothesis.settings.load_profile("reef")


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the tests that neither kill nor flush it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test's own, to be killed and flushed at will."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """One vector store for the tests that neither kill it nor count on being alone."""
    server = ChromaServer(tmp_path_factory.mktemp("chroma"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_chroma(tmp_path: Path) -> Iterator[ChromaServer]:
    """A vector store of this test's own, to be killed at will."""
    server = ChromaServer(tmp_path / "chroma")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def vectors(shared_chroma: ChromaServer) -> Iterator[VectorIndex]:
    """The index of a library that has nothing in it."""
    index = VectorIndex(shared_chroma.url)
    for store in index.stores():
        index.drop(store)
    yield index
    index.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of our own, without a database name."""
    with running_postgres() as url:
        yield url


_databases_made = iter(range(1_000_000))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "reef.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> str:
    """Name of a migrated PostgreSQL database, to be copied."""
    import psycopg

    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    migrate(f"{postgres_server}/migrated")
    return "migrated"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, migrated database of each kind in turn."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "reef.db")
        return f"sqlite:///{tmp_path / 'reef.db'}"
    import psycopg

    server: str = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("migrated_template")
    name = f"test_{next(_databases_made)}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{server}/{name}"


@pytest.fixture
def any_database(database_url: str) -> Iterator[Database]:
    """The database of `database_url`, opened."""
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def shop(any_database: Database, shared_redis: RedisServer, tmp_path: Path) -> Iterator[Workshop]:
    """Both pools of knowledge in this process."""
    import redis
    from workshop import Workshop  # with the engines: most tests need none

    with redis.Redis.from_url(shared_redis.url) as client:
        made = Workshop(any_database, client, tmp_path)
        yield made
        made.progress.close()


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A running product with a simulated device, shared by the tests of one file: none may break it."""
    with running_reef(tmp_path_factory.mktemp("reef")) as started:
        yield started


@pytest.fixture
def start_reef(tmp_path: Path) -> Iterator[StartReef]:
    """Starts a product of this test's own, whose processes it may kill."""
    with ExitStack() as stack:
        places = iter(range(100))

        def start(queues: str = SIMULATED_QUEUES, **fields: object) -> Reef:
            directory = tmp_path / f"reef{next(places)}"
            directory.mkdir()
            return stack.enter_context(running_reef(directory, queues, **fields))

        yield start


@pytest.fixture(scope="module")
def reef_with_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A running product with its default model on the CPU."""
    with real_reef(tmp_path_factory.mktemp("real")) as started:
        yield started
