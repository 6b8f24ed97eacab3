"""The gRPC API with a real broker and database, a generated client, and a device that is played by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from grpc_server import Caller, Served, calling, serving

from reef.records.database import migrate
from reef.settings import Settings

if TYPE_CHECKING:
    from played_device import Stage
    from services import RedisServer


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisServer, queues_text: str) -> Settings:
    directory = tmp_path_factory.mktemp("grpc")
    (directory / "queues.yaml").write_text(queues_text, encoding="utf-8")
    made = Settings(data_dir=directory, redis_url=shared_redis.url, queues_file=directory / "queues.yaml")
    migrate(made.sqlalchemy_url)
    return made


@pytest.fixture(scope="module")
def served(settings: Settings) -> Iterator[Served]:
    """One server for the tests that do not break it."""
    with serving(settings) as running:
        yield running


@pytest.fixture
def stage(settings: Settings, stage_of: Callable[[Settings], Stage]) -> Iterator[Stage]:
    """The device, played by hand, with no job left over."""
    stage = stage_of(settings)
    stage.clear()
    yield stage
    stage.clear()
    stage.database.dispose()
    stage.redis.close()


@pytest.fixture
def caller(served: Served) -> Iterator[Caller]:
    with calling(served.target) as client:
        yield client
